"""Starting values: those of torchvision and timm, so that training from scratch begins alike."""

import math
from typing import Any

import jax
from jax.nn.initializers import Initializer, truncated_normal, variance_scaling

resnet_kernel: Initializer = variance_scaling(2.0, "fan_out", "normal")
"""He normal over the fan-out: torchvision's `kaiming_normal_(mode='fan_out')` of ResNet."""

googlenet_kernel: Initializer = truncated_normal(0.01)
"""Normal of deviation 0.01 cut at two deviations: torchvision's GoogLeNet, all its kernels."""

transformer_kernel: Initializer = truncated_normal(0.02)
"""Normal of deviation 0.02 cut at two deviations: timm's ViT, linear layers and positions."""

torch_kernel: Initializer = variance_scaling(1.0 / 3.0, "fan_in", "uniform")
"""Uniform in ±1/√fan_in: the default of `torch.nn.Linear` and `torch.nn.Conv2d`."""


def torch_bias(fan_in: int) -> Initializer:
    """Uniform in ±1/√fan_in: the default bias of `torch.nn.Linear` and `torch.nn.Conv2d`.

    Args:
      fan_in: number of inputs of one output value (input channels x window area).
    """
    bound = 1.0 / math.sqrt(fan_in)

    def initialize(
        key: jax.Array, shape: Any, dtype: Any = None, out_sharding: Any = None
    ) -> jax.Array:
        del out_sharding  # part of the protocol; biases are replicated
        return jax.random.uniform(key, shape, dtype, minval=-bound, maxval=bound)

    return initialize
