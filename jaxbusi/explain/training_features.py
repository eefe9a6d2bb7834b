"""The features of a run's training images: what means nothing in particular, and what is alike."""

import dataclasses
import hashlib
import io
import logging
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from jaxbusi import atomic
from jaxbusi.data.parts import PartSet
from jaxbusi.explain.looker import Looker
from jaxbusi.familiarity import MOST_TRAINING
from jaxbusi.logs import progress_bar

_BRANCH = "branch "  # before the branches' names in the file
_OF = "of"


@dataclasses.dataclass(frozen=True)
class TrainingFeatures:
    """Of N training images, or of as many evenly taken as there may be.

    Attributes:
      image: their names.
      label: int64[N], indices into `CLASSES`.
      features: float32[N, d] by branch.
    """

    image: tuple[str, ...]
    label: np.ndarray
    features: Mapping[str, np.ndarray]

    @property
    def means(self) -> dict[str, np.ndarray]:
        """float32[d] by branch: what stands for a branch that sees nothing."""
        return {
            name: rows.mean(axis=0, dtype=np.float64).astype(np.float32)
            for name, rows in self.features.items()
        }


def training_features(
    workdir: Path, looker: Looker, weights_sha256: str, load: Callable[[], PartSet]
) -> TrainingFeatures:
    """Returns the branches' features of the training images themselves, without their copies.

    They are kept in `explain/training_features.npz` of the workdir, so that the training images are
    looked at once, and files can be explained where the images are no longer there.

    Args:
      workdir: of the run, claimed.
      looker: its classifier.
      weights_sha256: of its weights.
      load: reads the run's images; called where the features are not kept.

    Raises:
      UserError: the images are not what they were, or the file cannot be written.
    """
    path = workdir / "explain" / "training_features.npz"
    split = (workdir / "split.csv").read_bytes() if (workdir / "split.csv").exists() else b""
    of = f"{weights_sha256} {hashlib.sha256(split).hexdigest()}"
    kept = _read(path, of)
    if kept is not None:
        return kept
    found = _look(looker, load())
    arrays = {_BRANCH + name: rows for name, rows in found.features.items()}
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        **{_OF: np.array(of), "image": np.array(found.image), "label": found.label, **arrays},
    )
    atomic.write_bytes(path, buffer.getvalue())
    return found


def _look(looker: Looker, parts: PartSet) -> TrainingFeatures:
    part = parts["train"]
    rows, first = np.unique(part.samples.image, return_index=True)
    every = -(-len(rows) // MOST_TRAINING)
    rows, labels = rows[::every], part.samples.label[first][::every]
    found: list[dict[str, np.ndarray]] = []
    with progress_bar(len(rows), "features of the training images", "image") as bar:
        for begin in range(0, len(rows), looker.batch):
            here = rows[begin : begin + looker.batch]
            squares = np.zeros((looker.batch, looker.side, looker.side, 3), np.uint8)
            for place, row in enumerate(here):
                squares[place] = part.store.view(row)
            features = looker.features(squares)
            found.append({name: values[: len(here)] for name, values in features.items()})
            bar.update(len(here))
    return TrainingFeatures(
        tuple(part.store.records[row].name for row in rows),
        labels.astype(np.int64),
        {name: np.concatenate([batch[name] for batch in found]) for name in found[0]},
    )


def _read(path: Path, of: str) -> TrainingFeatures | None:
    """What is kept; None where there is nothing, or of other weights or images."""
    if not path.exists():
        return None
    try:
        # Opened here: np.load leaves open what it cannot read.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = dict(file)
        if str(arrays[_OF]) == of:
            return TrainingFeatures(
                tuple(arrays["image"].tolist()),
                arrays["label"],
                {
                    name.removeprefix(_BRANCH): rows
                    for name, rows in arrays.items()
                    if name.startswith(_BRANCH)
                },
            )
        logging.info("%s is of other weights or images; it is computed again", path)
    except Exception as error:  # damaged bytes make readers fail in every way
        logging.warning("%s is damaged (%s); it is computed again", path, error)
    return None
