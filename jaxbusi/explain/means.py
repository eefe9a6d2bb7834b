"""The mean features of a run's training images: what stands for a branch that sees nothing."""

import hashlib
import io
import logging
from collections.abc import Callable
from pathlib import Path

import numpy as np

from jaxbusi import atomic
from jaxbusi.data.parts import PartSet
from jaxbusi.data.store import ImageStore
from jaxbusi.explain.looker import Looker
from jaxbusi.logs import progress_bar

_OF = "of"  # beside the branches' names in the file


def training_means(
    workdir: Path, looker: Looker, weights_sha256: str, load: Callable[[], PartSet]
) -> dict[str, np.ndarray]:
    """Returns the mean of each branch's features over the training images themselves.

    They are kept in `explain/training_means.npz` of the workdir, so that the training images are
    looked at once, and files can be explained where the images are no longer there.

    Args:
      workdir: of the run, claimed.
      looker: its classifier.
      weights_sha256: of its weights.
      load: reads the run's images; called where the means are not kept.

    Returns:
      f32[d] by branch.

    Raises:
      UserError: the images are not what they were, or the file cannot be written.
    """
    path = workdir / "explain" / "training_means.npz"
    split = (workdir / "split.csv").read_bytes() if (workdir / "split.csv").exists() else b""
    of = f"{weights_sha256} {hashlib.sha256(split).hexdigest()}"
    kept = _read(path, of)
    if kept is not None:
        return kept
    part = load()["train"]
    means = _means(looker, part.store, np.unique(part.samples.image))
    buffer = io.BytesIO()
    np.savez(buffer, allow_pickle=False, **means, **{_OF: np.array(of)})
    atomic.write_bytes(path, buffer.getvalue())
    return means


def _means(looker: Looker, store: ImageStore, rows: np.ndarray) -> dict[str, np.ndarray]:
    sums: dict[str, np.ndarray] = {}
    with progress_bar(len(rows), "features of the training images", "image") as bar:
        for first in range(0, len(rows), looker.batch):
            here = rows[first : first + looker.batch]
            squares = np.zeros((looker.batch, looker.side, looker.side, 3), np.uint8)
            for place, row in enumerate(here):
                squares[place] = store.view(row)
            for name, features in looker.features(squares).items():
                sums[name] = sums.get(name, 0.0) + features[: len(here)].sum(0, dtype=np.float64)
            bar.update(len(here))
    return {name: (total / len(rows)).astype(np.float32) for name, total in sums.items()}


def _read(path: Path, of: str) -> dict[str, np.ndarray] | None:
    """The means that are kept; None where there are none, or of other weights or images."""
    if not path.exists():
        return None
    try:
        # Opened here: np.load leaves open what it cannot read.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            means = dict(file)
        if str(means.pop(_OF)) == of:
            return means
        logging.info("%s is of other weights or images; it is computed again", path)
    except Exception as error:  # damaged bytes make readers fail in every way
        logging.warning("%s is damaged (%s); it is computed again", path, error)
    return None
