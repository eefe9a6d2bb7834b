"""Weights and images → probabilities."""

import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxbusi import atomic
from jaxbusi.data import pipeline, splits
from jaxbusi.data.parts import PartSet
from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import present
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.features import Features
from jaxbusi.settings import Settings
from jaxbusi.state import Metrics, Tree, batch_sharding, replicated
from jaxbusi.steps import Batch, eval_step


class Evaluator:
    """Applies weights to the parts of a run that are not trained on, compiled once.

    The last batch of a part is padded and masked, so that every image counts once.
    """

    def __init__(
        self,
        model: nn.Module,
        mesh: Mesh,
        settings: Settings,
        parts: PartSet,
        features: Features | None = None,
    ):
        """Takes the model, the devices, the parts of `load_parts`, and features that are known."""
        whole, sharded = replicated(mesh), batch_sharding(mesh)
        self._parts = parts.parts
        self.evaluated = {name: part for name, part in parts.parts.items() if name != "train"}
        self._mesh = mesh
        self._settings = settings
        self._features = features
        # Replicated outputs reach every process of a cluster: each can write the same files.
        self._step = jax.jit(
            functools.partial(eval_step, model=model),
            in_shardings=(whole, sharded, whole),
            out_shardings=(whole, whole, whole),
        )
        self._judged = {
            name: jax.device_put(present.judged_classes(part.samples.label), whole)
            for name, part in self.evaluated.items()
        }
        self._all = jax.device_put(np.ones(len(CLASSES), bool), whole)
        self._merge = jax.jit(Metrics.merge, out_shardings=whole)

    def measure(self, variables: Tree, name: str) -> Metrics:
        """Returns the metrics of one part's images themselves: a point of the learning curves.

        Between the classes that occur, as everywhere in the evidence: see `evaluation.present`.
        """
        part = self.evaluated[name]
        total = None
        for _, device in self._batches(name, np.flatnonzero(part.samples.copy == 0)):
            metrics, *_ = self._step(variables, device, self._judged[name])
            total = metrics if total is None else self._merge(total, metrics)
        return jax.device_get(total)

    def predict(self, variables: Tree, name: str) -> tuple[Predictions, np.ndarray]:
        """Looks at all copies of one part.

        Returns:
          Their probabilities, in the order of the samples; and the features of the images
          themselves, float32[M, d], see `steps.joined`.
        """
        part = self.evaluated[name]
        rows, features = self._look(variables, name, np.arange(len(part.samples)))
        rows = rows.astype(np.float64)
        predictions = Predictions(
            image=[part.store.records[row].name for row in part.samples.image],
            copy=part.samples.copy,
            label=part.samples.label,
            # Float32 rounding leaves sums of 1 ± 1e-7; in float64 they are made exact.
            probabilities=rows / rows.sum(axis=1, keepdims=True),
        )
        return predictions, features

    def training_features(self, variables: Tree, most: int) -> tuple[np.ndarray, np.ndarray]:
        """Looks at images of the training part as evaluation sees them.

        Args:
          variables: the weights.
          most: how many images at most, evenly taken.

        Returns:
          Their features float32[M, d] and labels int64[M].
        """
        samples = self._parts["train"].samples
        rows = np.flatnonzero(samples.copy == 0)
        rows = rows[:: -(-len(rows) // most)]
        return self._look(variables, "train", rows)[1], samples.label[rows]

    def _look(self, variables: Tree, name: str, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Probabilities float32[M, 3] of int[M] rows of a part, and the features of copies 0."""
        itself = self._parts[name].samples.take(rows).copy == 0
        judged = self._judged.get(name, self._all)
        probabilities, features = [], []
        place = 0
        for _, device in self._batches(name, rows):
            _, found, described = jax.device_get(self._step(variables, device, judged))
            probabilities.append(found)
            wanted = itself[place : place + len(described)]  # without what is padding
            features.append(described[: len(wanted)][wanted])
            place += len(described)
        return np.concatenate(probabilities)[: len(rows)], np.concatenate(features)

    def _batches(
        self, name: str, rows: np.ndarray
    ) -> Iterator[tuple[dict[str, np.ndarray], Batch]]:
        """Batches of int[M] rows of a part's samples."""
        part = self._parts[name]
        batches = pipeline.eval_batches(
            part.store,
            part.samples.take(rows),
            self._settings.data.augment,
            seed=self._settings.seed,
            batch_size=self._settings.batch_size,
            shard=(jax.process_index(), jax.process_count()),
        )
        if self._features is not None:
            batches = self._features.attach_to(name, batches, rows)
        return pipeline.to_device(batches, self._mesh)


def announce_leakage(workdir: Path, settings: Settings, parts: PartSet) -> None:
    """Writes into results.json, before training, what is known then: near-copies in training.

    The scores follow when there are some; results of a run that was made are left as they are.
    """
    path = workdir / "results.json"
    if jax.process_index() == 0 and not path.exists():
        leakage = splits.describe_leakage(splits.leakage(parts.rows))
        known = {"protocol": settings.data.protocol, "leakage": leakage, "parts": {}}
        atomic.write_json(path, known)
