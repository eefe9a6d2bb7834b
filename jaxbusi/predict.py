"""A trained run as a function: images of any size to probabilities."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn

from jaxbusi import train
from jaxbusi.data.images import resize
from jaxbusi.data.records import CLASSES
from jaxbusi.state import Tree, make_mesh

_BATCH = 16
"""Images at a time: one compiled shape for any number of images."""


class Predictor:
    """The classifier of a finished run, on one device.

        predictor = Predictor.load("runs/fusion")
        benign, malignant, normal = predictor([image])[0]

    An image is resized straight to the model's size, as the run's evaluation did: for the images of
    the test part the probabilities are those of copy 0 in `predictions_test.csv`.

    Attributes:
      classes: names of the columns.
      image_size: side of the model's square input, pixels.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(self, model: nn.Module, variables: Tree, image_size: int):
        """Takes a `Classifier`, its weights on one device, and the side of its input."""
        self.image_size = image_size
        self._variables = variables
        self._apply = jax.jit(functools.partial(_probabilities, model))

    @classmethod
    def load(cls, workdir: str | Path) -> "Predictor":
        """Reads the weights that the run's evaluation applied.

        Args:
          workdir: a folder that `python -m jaxbusi.main` wrote.

        Raises:
          UserError: the workdir holds no run or no checkpoint.
        """
        mesh = make_mesh(jax.local_devices()[:1])
        settings, model, variables = train.load_model(workdir, mesh)
        return cls(model, variables, settings.data.augment.crop)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Classifies images.

        Args:
          images: N of uint8[H, W, 3], RGB; any size, each its own; or one uint8[N, H, W, 3].

        Returns:
          float32[N, 3], probabilities in the order benign, malignant, normal.

        Raises:
          ValueError: an image is of another type or shape.
        """
        squares = np.stack([self._square(image) for image in images] or [self._blank()])
        rows = []
        for first in range(0, len(images), _BATCH):
            batch = squares[first : first + _BATCH]
            padded = np.concatenate([batch, *[self._blank()[None]] * (_BATCH - len(batch))])
            rows.append(jax.device_get(self._apply(self._variables, padded))[: len(batch)])
        return np.concatenate([np.empty((0, len(CLASSES)), np.float32), *rows])

    def _square(self, image: np.ndarray) -> np.ndarray:
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"an image must be uint8[H, W, 3], RGB; this one is {image.dtype}{image.shape}"
            )
        return resize(image, self.image_size)

    def _blank(self) -> np.ndarray:
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)


def _probabilities(model: nn.Module, variables: Tree, images: jax.Array) -> jax.Array:
    output: Any = model.apply(variables, images, train=False)
    return jax.nn.softmax(output.logits)
