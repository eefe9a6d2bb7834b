"""What is exported of a run: a function of weights and images, and what only it needs to know."""

import dataclasses
from typing import Any

import jax
import numpy as np
from flax import traverse_util

from jaxbusi.models.fusion import Classifier
from jaxbusi.models.googlenet import AUXILIARY_AFTER
from jaxbusi.train import TrainedRun

Weights = dict[str, Any]
"""Arrays by their paths, `params/head/logits/kernel`."""


@dataclasses.dataclass(frozen=True)
class Program:
    """A trained classifier without what only training needs.

    Attributes:
      model: applied in evaluation.
      weights: float32 arrays of the host.
      image_size: side of its square input, pixels.
    """

    model: Classifier
    weights: Weights
    image_size: int

    @classmethod
    def of(cls, run: TrainedRun) -> "Program":
        """Returns the program of a run: GoogLeNet's auxiliary heads stay behind."""
        flat = traverse_util.flatten_dict(jax.device_get(run.variables), sep="/")
        heads = AUXILIARY_AFTER.values()
        weights = {
            name: np.asarray(array)
            for name, array in flat.items()
            if not any(f"/googlenet/{head}/" in name for head in heads)
        }
        # Recomputing is for gradients, and would export a loop.
        model = run.model.clone(remat=False)
        return cls(model, weights, run.settings.data.augment.crop)

    @property
    def images(self) -> jax.ShapeDtypeStruct:
        """Shape and type of one image as a batch."""
        return jax.ShapeDtypeStruct((1, self.image_size, self.image_size, 3), np.uint8)

    def probabilities(self, weights: Weights, images: jax.Array) -> jax.Array:
        """Classifies images; pure, to be traced.

        Args:
          weights: as `self.weights`.
          images: uint8[B, image_size, image_size, 3], RGB; normalised in here.

        Returns:
          float32[B, 3], in the order of `jaxbusi.data.records.CLASSES`.
        """
        variables = traverse_util.unflatten_dict(weights, sep="/")
        output: Any = self.model.apply(variables, images, train=False)
        return jax.nn.softmax(output.logits)
