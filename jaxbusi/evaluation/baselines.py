"""What the task gives away for free: answers of three rules that know nothing of tissue.

* majority: the commonest class of the training part, whatever the image;
* image_size: a random forest on the width and height of the file;
* pixel_neighbour: the class of the training image whose gray values correlate best at 64 × 64.

Where a class does not occur in the part (see `present`), the rules know it as the model does: they
answer with one of the others.

A model that is no better than these has learnt nothing that is worth its training; how good they
are says how much of a score is the set's doing.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import intervals, present
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.evaluation.shortcuts import forest

NAMES = {
    "majority": "the commonest class",
    "image_size": "image size alone",
    "pixel_neighbour": "the most similar training image",
}
"""Each rule in words."""

SCORES = ("accuracy", "precision", "recall")

_SIDE = 64
_MOST = 10_000  # Training images that are compared; a row of pixels each, 160 MB.


@dataclasses.dataclass(frozen=True)
class Seen:
    """What the rules see of the images of a part.

    Attributes:
      names: of the images, N strings.
      label: int[N], indices into `CLASSES`.
      size: float64[N, 2], height and width of the files, pixels.
      pixels: float32[N, 64 · 64], gray values less their mean, of length 1.
    """

    names: Sequence[str]
    label: np.ndarray
    size: np.ndarray
    pixels: np.ndarray


def row_of_pixels(image: np.ndarray) -> np.ndarray:
    """Returns a row of `Seen.pixels` for an image uint8[H, W, 3]."""
    gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    small = cv2.resize(gray, (_SIDE, _SIDE), interpolation=cv2.INTER_AREA).astype(np.float32)
    centred = small.ravel() - small.mean()
    return centred / max(float(np.linalg.norm(centred)), 1e-6)


def answers(train: Seen, test: Seen) -> dict[str, Predictions]:
    """The answers of each rule of `NAMES` about one part.

    Args:
      train: the training part; where it is larger, the neighbour is looked for in 10,000 of it.
      test: the part.
    """
    shares = np.bincount(train.label, minlength=len(CLASSES)) / len(train.label)
    fitted = forest().fit(train.size, train.label)
    by_size = np.zeros((len(test.label), len(CLASSES)))
    by_size[:, fitted.classes_] = fitted.predict_proba(test.size)
    candidates = np.flatnonzero(present.judged_classes(test.label)[train.label])
    chosen = np.linspace(0, len(candidates) - 1, min(len(candidates), _MOST)).astype(int)
    compared = candidates[chosen]
    nearest = compared[(test.pixels @ train.pixels[compared].T).argmax(axis=1)]
    found = {
        "majority": np.tile(shares, (len(test.label), 1)),
        "image_size": by_size,
        "pixel_neighbour": np.eye(len(CLASSES))[train.label[nearest]],
    }
    return {
        name: Predictions(list(test.names), np.zeros(len(test.label)), test.label, probabilities)
        for name, probabilities in found.items()
    }


def summarize(
    train: Seen,
    test: Seen,
    units: Mapping[str, str],
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """{rule: {score: interval}} for the rules of `NAMES` and `SCORES` on one part.

    Args:
      train: the training part.
      test: the part.
      units: as `Predictions.in_units` takes them.
      resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    found = {}
    for name, rows in answers(train, test).items():
        rows = present.renormalise(rows.in_units(units))
        scored = intervals.bootstrap(rows, resamples=resamples, seed=seed)
        found[name] = {score: scored[score] for score in SCORES}
    return found
