"""Models of a few hundred parameters with everything that has to be handled; weights of any."""

import contextlib
import functools
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbusi import train
from jaxbusi.models import resnet
from jaxbusi.models.fusion import Classifier, Output
from jaxbusi.models.vit import ViTSize

TINY_VIT = ViTSize(patch=8, width=8, depth=2, heads=2, mlp=16)


class TinyModel(nn.Module):
    """Convolution, batch normalisation, dropout, one auxiliary head."""

    dropout: float = 0.0

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool) -> Output:
        x = images.astype(jnp.float32) / 255.0
        x = nn.Conv(4, (3, 3), use_bias=False, name="conv")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        x = jnp.mean(nn.relu(x), axis=(1, 2))
        x = nn.Dropout(self.dropout, deterministic=not train)(x)
        auxiliary = (nn.Dense(3, name="auxiliary")(x),) if train else ()
        return Output(nn.Dense(3, name="head")(x), auxiliary, {"tiny": x})


def weights_of(model: nn.Module, images: np.ndarray) -> Any:
    """A model's first variables, from a program that runs once and so is not optimised."""
    init = functools.partial(model.init, train=False)
    quick = jax.jit(init, compiler_options={"xla_backend_optimization_level": 1})
    return quick(jax.random.key(0), images)


@contextlib.contextmanager
def tiny_fusion(**changes):
    """Every run has the real classifier with two stages, one block each, and two layers."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(resnet, "STAGES", ((4, 1), (8, 2)))
        patch.setattr(resnet, "BLOCKS", 1)
        model = Classifier(**{"vit": TINY_VIT, "hidden": (8,), **changes})
        patch.setattr(train, "build_model", lambda *_: model)
        yield model
