"""Accuracy where the model may decline: it answers only the images that it is surest of.

Coverage is the share of images that are answered, selective accuracy the share of right answers
among them (El-Yaniv and Wiener, Journal of Machine Learning Research 11, 2010, with risk in place
of accuracy). How sure the model is of an image is the probability of its answer. Images that share
a probability are answered, or declined, together: the coverage may come out above what was asked.

A curve that does not rise as the coverage falls says that the probabilities do not tell the easy
images from the hard ones.
"""

from typing import Any

import numpy as np

from jaxbusi.evaluation import intervals
from jaxbusi.evaluation.metrics import reaches
from jaxbusi.evaluation.predictions import Predictions

COVERAGES = (1.0, 0.9, 0.8, 0.7, 0.6, 0.5)
"""At which results.json gives the accuracy."""


def selective_accuracy(
    predictions: Predictions,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """The accuracy at each of `COVERAGES`; which images are answered is decided in each resample.

    Args:
      predictions: N rows.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      For each point {at: the least coverage, coverage: as it came out, answered: rows, threshold:
      the least probability of an answer, accuracy: an `intervals.Interval`}.
    """

    def at_points(weights: np.ndarray) -> dict[str, np.ndarray]:
        coverage, accuracy, _ = curve(predictions, weights)
        rows = np.arange(len(weights))
        return {str(least): accuracy[rows, reach(coverage, least)] for least in COVERAGES}

    values = intervals.resampled(
        predictions.label, predictions.source, at_points, resamples=resamples, seed=seed
    )
    confidence = predictions.probabilities.max(axis=1)
    coverage, accuracy, thresholds = curve(predictions)
    points = []
    for least in COVERAGES:
        index = reach(coverage, least)[0]
        value = float(accuracy[0, index])
        answered = confidence >= thresholds[index]
        fallback = intervals.exact(value, np.unique(predictions.source[answered]).size)
        points.append(
            {
                "at": least,
                "coverage": float(coverage[0, index]),
                "answered": int(answered.sum()),
                "threshold": float(thresholds[index]),
                "accuracy": intervals.percentile(value, values[str(least)], fallback),
            }
        )
    return points


def curve(
    predictions: Predictions, weights: np.ndarray | None = None
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Coverage and accuracy at every threshold, for R weightings at once.

    Args:
      predictions: N rows.
      weights: float64[R, N], how often each row counts; once, by default.

    Returns:
      coverage: float64[R, D] for D distinct top probabilities, rising to 1.
      accuracy: float64[R, D] of the rows that reach the threshold; NaN where none has weight.
      thresholds: float64[D], falling.
    """
    weights = np.ones((1, len(predictions))) if weights is None else weights
    confidence = predictions.probabilities.max(axis=1)
    right = predictions.predicted == predictions.label
    order = np.argsort(-confidence, kind="stable")
    starts = np.flatnonzero(np.diff(-confidence[order], prepend=-np.inf))
    weights = weights[:, order]
    answered = np.cumsum(np.add.reduceat(weights, starts, axis=1), axis=1)
    hits = np.cumsum(np.add.reduceat(weights * right[order], starts, axis=1), axis=1)
    with np.errstate(invalid="ignore"):
        return answered / answered[:, -1:], hits / answered, confidence[order][starts]


def reach(coverage: np.ndarray, least: float) -> np.ndarray:
    """int64[R]: the first of the D columns, rising, at which the coverage is `least` or more."""
    return reaches(coverage, least).argmax(axis=1)
