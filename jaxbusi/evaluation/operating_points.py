"""Malignant against the rest, with the threshold moved: what one kind of error costs in the other.

The answer of a run is its most probable class. As a test for malignancy it could be read
otherwise: *positive* is an image whose probability of malignant reaches a threshold. A lower
threshold misses fewer malignant images and raises more false alarms. An operating point fixes one
of sensitivity and specificity and gives the best that the other can be then, on the steps of the
empirical ROC curve, as scikit-learn's `roc_curve` has them; nothing is interpolated between them.

Where several images share a probability they are called alike, so that the fixed side may come out
higher than was asked; it is given as it came out.

The threshold is found on the very images on which it is judged. That is how such points are
usually published, and it flatters: a threshold that was fixed beforehand does a little worse on new
images. The intervals take the search along: in each resample the threshold is found anew.
"""

from typing import Any

import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import intervals
from jaxbusi.evaluation.metrics import reaches
from jaxbusi.evaluation.predictions import Predictions

FIXED = (
    ("specificity", 0.90),
    ("specificity", 0.95),
    ("sensitivity", 0.90),
    ("sensitivity", 0.95),
)
"""Which side each point fixes, and the least that it may be."""

_OTHER = {"specificity": "sensitivity", "sensitivity": "specificity"}


def operating_points(
    predictions: Predictions,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The points of `FIXED`.

    Args:
      predictions: N rows.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      For each point {fixed: 'specificity' or 'sensitivity', at: the least it may be, reached: what
      it is, threshold: of the probability of malignant, best: an `intervals.Interval` of the other
      side}. `threshold` is None where no image is called malignant. Without malignant images, or
      without others, all are NaN.
    """
    malignant = predictions.label == CLASSES.index("malignant")
    chance = predictions.probabilities[:, CLASSES.index("malignant")]
    if malignant.all() or not malignant.any():
        nothing = intervals.Interval(np.nan, np.nan, np.nan)
        return [
            {"fixed": side, "at": least, "reached": np.nan, "threshold": None, "best": nothing}
            for side, least in FIXED
        ]

    def found(weights: np.ndarray) -> dict[str, np.ndarray]:
        sensitivity, specificity, _ = rates(malignant, chance, weights)
        return {
            f"{side} {least}": best(sensitivity, specificity, side, least)[0]
            for side, least in FIXED
        }

    values = intervals.resampled(
        predictions.label,
        predictions.source,
        found,
        resamples=resamples,
        seed=seed,
    )
    sensitivity, specificity, thresholds = rates(malignant, chance, np.ones((1, len(chance))))
    sides = {"sensitivity": sensitivity[0], "specificity": specificity[0]}
    trials = {
        "sensitivity": np.unique(predictions.source[malignant]).size,
        "specificity": np.unique(predictions.source[~malignant]).size,
    }
    points = []
    for side, least in FIXED:
        [value], [index] = best(sensitivity, specificity, side, least)
        points.append(
            {
                "fixed": side,
                "at": least,
                "reached": float(sides[side][index]),
                "threshold": float(thresholds[index]) if index else None,
                "best": intervals.percentile(
                    value,
                    values[f"{side} {least}"],
                    intervals.exact(float(value), trials[_OTHER[side]]),
                ),
            }
        )
    return points


def rates(
    positive: np.ndarray, score: np.ndarray, weights: np.ndarray
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Sensitivity and specificity at every threshold, for R weightings at once.

    Args:
      positive: bool[N].
      score: float64[N], higher means more positive.
      weights: float64[R, N], how often each row counts.

    Returns:
      sensitivity: float64[R, 1 + D] for D distinct scores: 0 at first, where none is called.
      specificity: float64[R, 1 + D], 1 at first.
      thresholds: float64[1 + D], falling: a score that reaches it is called positive; first inf.
      NaN where the positives, or the others, have no weight.
    """
    order = np.argsort(-score, kind="stable")  # once: only the weights differ between resamples
    starts = np.flatnonzero(np.diff(-score[order], prepend=-np.inf))
    weights = weights[:, order]

    def share(rows: np.ndarray) -> np.ndarray:
        """Of the weight of these rows, how much reaches each threshold."""
        reached = np.cumsum(np.add.reduceat(weights * rows[order], starts, axis=1), axis=1)
        with np.errstate(invalid="ignore"):
            return np.pad(reached / reached[:, -1:], ((0, 0), (1, 0)))

    thresholds = np.concatenate([[np.inf], score[order][starts]])
    return share(positive), 1 - share(~positive), thresholds


def best(
    sensitivity: np.ndarray, specificity: np.ndarray, fixed: str, least: float
) -> tuple[np.ndarray, np.ndarray]:
    """The best of one side among the thresholds at which the other is at least `least`.

    Args:
      sensitivity: float64[R, T], of `rates`.
      specificity: float64[R, T], of `rates`.
      fixed: the side that must reach `least`.
      least: 0..1.

    Returns:
      float64[R], the best of the other side; int64[R], where: the best the fixed side can be there.
    """
    held, free = (
        (specificity, sensitivity) if fixed == "specificity" else (sensitivity, specificity)
    )
    allowed = np.where(reaches(held, least), free, -np.inf)
    value = allowed.max(axis=1)
    # Of several thresholds that do equally well, the one that does best on the fixed side.
    index = np.where(allowed == value[:, None], held, -np.inf).argmax(axis=1)
    return np.where(np.isfinite(value), value, np.nan), index
