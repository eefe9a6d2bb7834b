"""A trained run as a function: images of any size to probabilities."""

import functools
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxbusi import calibration_file, familiarity, train
from jaxbusi.data.images import resize
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.familiarity import Familiarity, distances
from jaxbusi.state import Tree, batch_sharding, make_mesh, replicated
from jaxbusi.steps import joined

_BATCH = 16
"""Images on a device at a time: one compiled shape for any number of images."""


class Predictor:
    """The classifier of a finished run, on one device or several of this process.

        predictor = Predictor.load("runs/fusion")
        benign, malignant, normal = predictor([image])[0]

    An image is resized straight to the model's size, as the run's evaluation did: for the images of
    the test part the probabilities are those of copy 0 in `predictions_test.csv`.

    Attributes:
      classes: names of the columns.
      image_size: side of the model's square input, pixels.
      devices: how many there are; they divide a batch among them.
    """

    classes: tuple[str, ...] = CLASSES

    def __init__(
        self,
        model: nn.Module,
        variables: Tree,
        image_size: int,
        mesh: Mesh,
        temperature: float = 1.0,
        familiar: Familiarity | None = None,
    ):
        """Takes a `Classifier`, its weights, the side of its input, and the devices they are on.

        The logits are divided by the temperature; with `familiar` distances are measured.
        """
        self.image_size = image_size
        self.devices = mesh.size
        known = None if familiar is None else familiar.arrays
        self._given = jax.device_put((variables, known), replicated(mesh))
        self._sharding = batch_sharding(mesh)
        self._apply = jax.jit(
            functools.partial(_judge, model, temperature),
            in_shardings=(replicated(mesh), self._sharding),
            out_shardings=self._sharding,
        )

    @classmethod
    def load(cls, workdir: str | Path, *, calibrated: bool = False) -> "Predictor":
        """Reads the weights that the run's evaluation applied.

        Args:
          workdir: a folder that `python -m jaxbusi.main` wrote.
          calibrated: whether the probabilities are those at the temperature that was fitted on the
            validation part, as the command gives them; by default they are the model's own.

        Raises:
          UserError: the workdir holds no run, no checkpoint, or no temperature that is asked for.
        """
        mesh = make_mesh(jax.local_devices()[:1])
        run = train.load_model(workdir, mesh)
        temperature = 1.0
        if calibrated:
            found, why = calibration_file.read(Path(workdir), run.step)
            if found is None:
                raise UserError(f"{workdir}: the probabilities cannot be calibrated: {why}")
            temperature = found
        familiar, _ = familiarity.read(Path(workdir), run.step)
        size = run.settings.data.augment.crop
        return cls(run.model, run.variables, size, mesh, temperature, familiar)

    def __call__(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Classifies images.

        Args:
          images: N of uint8[H, W, 3], RGB; any size, each its own; or one uint8[N, H, W, 3].

        Returns:
          float32[N, 3], probabilities in the order benign, malignant, normal.

        Raises:
          ValueError: an image is of another type or shape.
        """
        return self._all(images).probabilities

    def distance(self, images: np.ndarray | Sequence[np.ndarray]) -> np.ndarray:
        """Measures how far images are from the training data, see `familiarity`.

        Args:
          images: as for a call; one at least.

        Returns:
          float32[N], 1 at the limit.

        Raises:
          ValueError: an image is of another type or shape; or the predictor was made without what
            it takes, as `load` makes it of a run that has no familiarity.npz for its weights.
        """
        found = self._all(images).distance
        if found is None:
            raise ValueError("this run has no familiarity.npz: nothing to measure distances by")
        return found

    def _all(self, images: np.ndarray | Sequence[np.ndarray]) -> "Judged":
        """Of any number of images, on the host."""
        squares = np.stack([self.square(image) for image in images] or [self._blank()])
        size = _BATCH * self.devices
        found = []
        for first in range(0, len(squares), size):
            batch = squares[first : first + size]
            padded = np.concatenate([batch, *[self._blank()[None]] * (size - len(batch))])
            found.append(jax.device_get(self.start(padded)))
        return jax.tree.map(lambda *rows: np.concatenate(rows)[: len(images)], *found)

    def square(self, image: np.ndarray) -> np.ndarray:
        """Returns what the model sees of an image: uint8[image_size, image_size, 3].

        Args:
          image: uint8[H, W, 3], RGB.

        Raises:
          ValueError: the image is of another type or shape.
        """
        if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or not image.size:
            raise ValueError(
                f"an image must be uint8[H, W, 3], RGB; this one is {image.dtype}{image.shape}"
            )
        return resize(image, self.image_size)

    def start(self, squares: np.ndarray) -> "Judged":
        """Begins to classify a batch; returns at once.

        Args:
          squares: uint8[B, image_size, image_size, 3], B divisible by the number of devices. Each B
            is compiled for itself. Not to be written to any more.

        Returns:
          Arrays that `jax.device_get` waits for.
        """
        return self._apply(self._given, jax.device_put(squares, self._sharding))

    def _blank(self) -> np.ndarray:
        return np.zeros((self.image_size, self.image_size, 3), np.uint8)


class Judged(NamedTuple):
    """What is made of B images.

    Attributes:
      probabilities: float32[B, 3].
      distance: float32[B], see `familiarity`, or None where the run has none.
    """

    probabilities: Any
    distance: Any


def _judge(
    model: nn.Module,
    temperature: float,
    given: tuple[Tree, tuple[jax.Array, jax.Array] | None],
    images: jax.Array,
) -> Judged:
    variables, known = given
    output: Any = model.apply(variables, images, train=False)
    distance = None if known is None else distances(joined(output), *known)
    return Judged(jax.nn.softmax(output.logits / temperature), distance)
