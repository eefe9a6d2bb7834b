"""95 % intervals by bootstrap over independent units, not over rows.

Augmented copies of one image are not new evidence, and near-copies hardly are: the unit that is
drawn anew is the group of near-copies, or the image, with all its copies (a *cluster*). Treating
copies as independent would narrow the intervals by up to the square root of their number.

Percentile bootstrap (Efron and Tibshirani, 1993, chapter 13), stratified by class: a resample draws
as many clusters of each class as there are. The parts are split class by class, so that their class
counts are fixed by design and no sampling error; and no resample is ever left without a class.

Where all resamples agree, as they do when every prediction is right, the bootstrap would claim
certainty. There the exact binomial interval (Clopper and Pearson, 1934) takes its place, over as
many trials as there are independent clusters, see `exact`. Such intervals are marked. What is left:
a macro average of which only one class is free of mistakes takes that class for certain; the
interval of that class itself, beside it, does not.
"""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import metrics
from jaxbusi.evaluation.predictions import Predictions, sources

LEVEL = 0.95
"""Probability with which the intervals are meant to cover the true value."""

RESAMPLES = 2000
"""How many, where nobody asks for another number."""

_CELLS = 4_000_000  # Weights held at a time: 32 MB, whatever the number of rows.


@dataclasses.dataclass(frozen=True)
class Interval:
    """A score with its interval; all NaN where the score is not defined.

    Attributes:
      value: of the predictions as they are.
      low: lower end.
      high: upper end.
      exact: the bootstrap had no spread and the binomial interval took its place.
    """

    value: float
    low: float
    high: float
    exact: bool = False


def bootstrap(
    predictions: Predictions,
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Every score of `metrics.scores` with its interval.

    Args:
      predictions: N rows.
      resamples: number of resamples, R.
      seed: the same seed gives the same intervals.

    Returns:
      An interval per key of `metrics.scores`. low <= value <= high: where a skewed score lies
      outside the percentiles, the interval is widened to hold it.
    """
    return bootstrap_mean([predictions], resamples=resamples, seed=seed)


def bootstrap_mean(
    runs: Sequence[Predictions],
    *,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> dict[str, Interval]:
    """Means over runs of every score of `metrics.scores`, with their intervals.

    The runs may have been tested on overlapping images: a unit moves with all its predictions.
    The interval covers which images the runs were tested on, and not what another training run
    would have given.

    Args:
      runs: predictions, N rows in all.
      resamples: number of resamples, R. One that leaves a run without a class is left out.
      seed: the same seed gives the same intervals.

    Returns:
      As `bootstrap`.
    """
    clusters = sources(runs)
    label = np.concatenate([run.label for run in runs])
    ends = np.cumsum([len(run) for run in runs])[:-1]

    def scored(weights: np.ndarray) -> dict[str, np.ndarray]:
        columns = np.split(weights, ends, axis=1)
        return _mean(map(metrics.weighted_scores, runs, columns))

    values = resampled(label, clusters, scored, resamples=resamples, seed=seed)
    means = _mean(metrics.scores(run) for run in runs)
    predicted = np.concatenate([run.predicted for run in runs])
    fallback = _exact_intervals(means, label, predicted, clusters)
    return {key: percentile(value, values[key], fallback.get(key)) for key, value in means.items()}


def resampled(
    label: np.ndarray,
    clusters: np.ndarray,
    statistic: Callable[[np.ndarray], Mapping[str, np.ndarray]],
    *,
    resamples: int,
    seed: int,
) -> dict[str, np.ndarray]:
    """Whatever is measured, on bootstrap resamples.

    Args:
      label: int[N], the class of each row.
      clusters: int[N], 0..S-1, every number used; rows with the same number are drawn together.
      statistic: float64[r, N] weights of the rows -> float64[r] for each key.
      resamples: R.
      seed: of the draw.

    Returns:
      float64[R] for each key.
    """
    parts = [statistic(weights) for weights in resample_weights(label, clusters, resamples, seed)]
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}


def percentile(
    value: float, values: np.ndarray, fallback: tuple[float, float] | None = None
) -> Interval:
    """The percentile interval, widened to hold the value.

    Args:
      value: of the rows as they are; NaN where it is not defined.
      values: float64[R], the same on each resample; NaN where it is not defined there.
      fallback: ends that take over where the resamples all agree, or most are not defined, as exact
        ones.
    """
    if np.isnan(value):
        return Interval(float(value), np.nan, np.nan)
    defined = values[~np.isnan(values)]
    # Where most resamples leave a class out, those that do not are a biased choice.
    few = 2 * len(defined) < len(values)
    low, high = np.quantile(
        defined if len(defined) else [value], [(1 - LEVEL) / 2, (1 + LEVEL) / 2]
    )
    replaced = fallback is not None and bool(few or np.isclose(low, high, rtol=0, atol=1e-12))
    if fallback is not None and replaced:
        low, high = fallback
    return Interval(float(value), float(min(low, value)), float(max(high, value)), replaced)


def _mean(runs: Iterable[Mapping[str, Any]]) -> dict[str, Any]:
    """The mean over runs of each score, which is a number or an array of them."""
    columns = list(runs)
    return {key: sum(run[key] for run in columns) / len(columns) for key in columns[0]}


def resample_weights(
    label: np.ndarray, clusters: np.ndarray, resamples: int, seed: int
) -> Iterator[np.ndarray]:
    """Bootstrap resamples as weights, in chunks that fit memory.

    Args:
      label: int[N], the class of each row.
      clusters: int[N], 0..S-1, every number used.
      resamples: R.
      seed: of the draw.

    Yields:
      float64[r, N], r summing to R: how often the cluster of each row was drawn.
    """
    # A cluster's stratum is the set of classes in it: usually one class, more where near-copies
    # of one picture were labelled differently.
    size = int(clusters.max()) + 1
    members = np.zeros((size, len(CLASSES)), bool)
    members[clusters, label] = True
    strata = np.unique(members, axis=0, return_inverse=True)[1].reshape(-1)
    # A generator for each stratum, so that the draw does not depend on the chunks.
    sequences = np.random.SeedSequence(seed).spawn(int(strata.max()) + 1)
    generators = [np.random.default_rng(sequence) for sequence in sequences]
    step = max(1, _CELLS // len(label))
    for start in range(0, resamples, step):
        drawn = np.empty((min(step, resamples - start), size))
        for stratum, generator in enumerate(generators):
            of_stratum = np.flatnonzero(strata == stratum)
            even = np.full(of_stratum.size, 1 / of_stratum.size)
            drawn[:, of_stratum] = generator.multinomial(of_stratum.size, even, len(drawn))
        yield drawn[:, clusters]


def exact(share: float, trials: int) -> tuple[float, float]:
    """Clopper-Pearson interval of a share of `trials` independent trials.

    Args:
      share: 0..1; share times trials need not be whole (an image with some copies right).
      trials: 0 or more; nothing is known from none: (0, 1).

    Returns:
      The lower and the upper end.
    """
    if trials == 0:
        return 0.0, 1.0
    hits, tail = share * trials, (1 - LEVEL) / 2
    low = stats.beta.ppf(tail, hits, trials - hits + 1) if hits > 0 else 0.0
    high = stats.beta.ppf(1 - tail, hits + 1, trials - hits) if hits < trials else 1.0
    return float(low), float(high)


def _exact_intervals(
    values: Mapping[str, float], label: np.ndarray, predicted: np.ndarray, clusters: np.ndarray
) -> dict[str, tuple[float, float]]:
    """Binomial intervals of every defined score, for use where the bootstrap has no spread.

    Trials are clusters, never rows. Accuracy, recall, specificity and precision are shares of all
    clusters, of those of the class, of those of the rest, of those called so. F1 = 2J/(1+J)
    follows from the share J of hits among the clusters of the class or called so. AUC is a share
    of concordant pairs; as many pairs are independent as the smaller side has clusters. A macro
    average takes the mean of the ends of its classes.
    """

    def count(rows: np.ndarray) -> int:
        return np.unique(clusters[rows]).size

    everything = np.ones(len(label), bool)
    result = {"accuracy": exact(values["accuracy"], count(everything))}
    ends: dict[str, list[tuple[float, float]]] = {score: [] for score in metrics.AVERAGED}
    for index, name in enumerate(CLASSES):
        truth, called = label == index, predicted == index
        trials = {
            "precision": count(called),
            "recall": count(truth),
            "specificity": count(~truth),
            "f1": count(truth | called),
            "auc": min(count(truth), count(~truth)),
        }
        for score, number in trials.items():
            key = metrics.class_key(name, score)
            value = values[key]
            if np.isnan(value):
                continue
            low, high = exact(value / (2 - value) if score == "f1" else value, number)
            if score == "f1":
                low, high = 2 * low / (1 + low), 2 * high / (1 + high)
            result[key] = low, high
            ends[score].append((low, high))
    for score, pairs in ends.items():
        if pairs:
            low, high = np.mean(pairs, axis=0)
            result[score] = float(low), float(high)
    return result
