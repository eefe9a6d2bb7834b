"""A trained classifier, compiled for what explaining asks of it."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from jaxbusi.explain import randomised, saliency
from jaxbusi.explain.contributions import Features
from jaxbusi.models.fusion import Classifier
from jaxbusi.state import Tree, batch_sharding, replicated

_BATCH = 16
"""Images on a device at a time."""


class Looker:
    """The classifier of a run on the devices of this process, one compiled program a question.

    Attributes:
      branches: names, in the order of the model.
      side: of the model's square input, pixels.
      batch: images of every batch.
    """

    def __init__(self, model: Classifier, variables: Tree, side: int, mesh: Mesh, images: int):
        """Takes the model and its weights, the devices, and how many images there are to be."""
        self.branches: Sequence[str] = model.branches
        self.side = side
        each = -(-images // mesh.size)
        self.batch = mesh.size * min(_BATCH, 1 << (each - 1).bit_length())
        self._variables = variables
        self._sharding = batch_sharding(mesh)
        # Computing layers twice saves memory in training; the weights are the same without.
        self._model = model.clone(remat=False)
        self._mesh = mesh
        self._features = self._compile(_features, 1)
        self._head = self._compile(_head, 1)
        self._look = self._compile(saliency.look, 2)

    def features(self, squares: np.ndarray) -> dict[str, np.ndarray]:
        """What the branches make of uint8[B, s, s, 3]: f32[B, d] by branch."""
        return jax.device_get(self._features(self._variables, self._put(squares)))

    def look(
        self,
        squares: np.ndarray,
        target: np.ndarray | None = None,
        variables: Tree | None = None,
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Features and maps of uint8[B, s, s, 3], see `saliency.look`.

        Args:
          squares: the images.
          target: int[B], the classes that the maps are about; by default the answers.
          variables: other weights than the run's.
        """
        about = np.full(len(squares), -1) if target is None else target
        weights = self._variables if variables is None else variables
        return jax.device_get(
            self._look(weights, self._put(squares), self._put(about.astype(np.int32)))
        )

    def head(self, features: Features) -> np.ndarray:
        """Probabilities f32[B, 3] from features f32[B, d] of all branches."""
        given = {name: self._put(rows) for name, rows in features.items()}
        return jax.device_get(self._head(self._variables, given))

    def random_weights(self, seed: int) -> dict[str, Tree]:
        """See `randomised.random_weights`."""
        return randomised.random_weights(self._model, self._variables, self._mesh, seed, self.side)

    def _put(self, array: np.ndarray) -> jax.Array:
        return jax.device_put(array, self._sharding)

    def _compile(self, function: Any, arguments: int) -> Any:
        return jax.jit(
            functools.partial(function, self._model),
            in_shardings=(replicated(self._mesh), *[self._sharding] * arguments),
            out_shardings=self._sharding,
        )


def _features(model: Classifier, variables: Tree, images: jax.Array) -> dict[str, jax.Array]:
    output: Any = model.apply(variables, images, train=False)
    return output.features


def _head(model: Classifier, variables: Tree, features: dict[str, jax.Array]) -> jax.Array:
    return jax.nn.softmax(saliency.logits_of(model, variables, features))
