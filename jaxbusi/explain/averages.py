"""Means and shares over images, with the intervals that all the evidence has."""

import dataclasses
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbusi.evaluation import intervals
from jaxbusi.evaluation.results import as_json

Ratio = tuple[np.ndarray, np.ndarray]
"""float64[N] each: what is summed over the images, and what the sum is divided by."""


def mean_over(values: np.ndarray, rows: np.ndarray | None = None) -> Ratio:
    """The mean of float64[N] values as a ratio, over bool[N] rows (all where None).

    Values that are NaN, not defined for an image, are left out.
    """
    counted = np.isfinite(values) if rows is None else np.isfinite(values) & rows
    return np.where(counted, values, 0.0), counted.astype(np.float64)


def ratio_intervals(
    ratios: Mapping[str, Ratio],
    label: np.ndarray,
    units: Sequence[str],
    *,
    seed: int,
    of_hits: Collection[str] = (),
    resamples: int = intervals.RESAMPLES,
) -> dict[str, dict[str, Any]]:
    """Each ratio of sums over the images with its 95 % interval.

    Args:
      ratios: by key.
      label: int[N], the class of each image; the bootstrap draws as many of each as there are.
      units: N names; images of one unit (near-copies, a patient) are drawn together.
      seed: of the bootstrap.
      of_hits: the keys that are shares of images. Where the bootstrap has no spread they get the
        exact binomial interval.
      resamples: of the bootstrap.

    Returns:
      {value, low, high, exact} by key; None where nothing is summed over, and the ends where no
      class has two units.
    """
    clusters = np.unique(np.array(units, dtype=object), return_inverse=True)[1]
    values = intervals.resampled(
        label,
        clusters,
        lambda weights: {key: _divided(weights, *ratio) for key, ratio in ratios.items()},
        resamples=resamples,
        seed=seed,
    )
    found = {}
    for key, ratio in ratios.items():
        value = float(_divided(np.ones((1, len(label))), *ratio)[0])
        counted = ratio[1] > 0
        trials = np.unique(clusters[counted]).size
        fallback = intervals.exact(value, trials) if key in of_hits and trials else None
        interval = intervals.percentile(value, values[key], fallback)
        if fallback is None and trials <= np.unique(label[counted]).size:
            # The one unit of a class is drawn every time: that is no evidence of no spread.
            interval = dataclasses.replace(interval, low=np.nan, high=np.nan)
        found[key] = {**as_json(interval), "exact": interval.exact}
    return found


def _divided(weights: np.ndarray, numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
    """float64[r], NaN where the denominator is 0, of float64[r, N] weights."""
    below = weights @ denominator
    quotient = np.full(len(weights), np.nan)
    return np.divide(weights @ numerator, below, out=quotient, where=below > 0)
