"""Two arms of a study on the same images: what sets them apart, and whether it may be chance.

Arms that are trained on one split are tested on the same images. Most images are right, or wrong,
in both, so that the difference is known better than either score: an image has to move with all its
predictions in both arms, over all seeds that tested it.

McNemar's test (Psychometrika 12, 1947) asks only the images that one arm got right and the other
wrong; if the arms were equally good, either would be the right one in half of them: an exact
binomial test. Over several seeds the same image comes back, and its answers are no new evidence; to
pool the counts would promise too much. Here an image has *one vote*, for the arm that got it right
in more of the seeds; images without a majority do not vote. The test is the exact sign test on the
votes. With one seed it is McNemar's exact test, which is given for each seed besides.

What both do not cover: another training run of the same arms, beyond the seeds that were made; and
that of many pairs some will differ by chance (the p values are not corrected for their number).
"""

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats

from jaxbusi.evaluation import intervals, metrics, present
from jaxbusi.evaluation.comparison import summed
from jaxbusi.evaluation.predictions import Predictions, sources

SCORES = ("accuracy", "precision", "recall")
"""Of which the differences are given; the last two are means of the classes."""

METHOD = (
    "percentile bootstrap of the mean difference over the seeds that both arms have; an image "
    "moves with all its predictions in both arms; p is of the exact McNemar test with one vote an "
    "image, for the arm that got it right in more of the seeds, not corrected for the number of "
    "pairs"
)


def compare_arms(
    arms: Mapping[str, Mapping[Any, Mapping[str, Predictions]]],
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> list[dict[str, Any]]:
    """Every pair of arms on every part, on the images themselves.

    Args:
      arms: {arm: {split: {part: predictions}}}, of the finished runs; a split is a seed, or a seed
        and a fold. The model's own probabilities, which are renormalised, see `present`.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      A list of {first, second, part, splits, ...}, the rest of `compare`. `splits` counts those in
      which both arms answered for the same images; where there are none, as between protocols that
      divide the images differently, it is 0 and the rest is of `gap`.
    """
    found = []
    arms = {arm: {of: _judged(run) for of, run in runs.items()} for arm, runs in arms.items()}
    parts = [part for runs in arms.values() for run in runs.values() for part in run]
    for part, (first, second) in itertools.product(
        dict.fromkeys(parts), itertools.combinations(arms, 2)
    ):
        both = {
            number: (arms[first][number][part], arms[second][number][part])
            for number in arms[first]
            if part in arms[first][number] and part in arms[second].get(number, {})
        }
        aligned = {number: _aligned(*rows) for number, rows in both.items()}
        shared = {number: rows for number, rows in aligned.items() if rows}
        if shared:
            content = compare(
                [one for one, _ in shared.values()],
                [other for _, other in shared.values()],
                resamples=resamples,
                seed=seed,
            )
        else:
            ones, others = (
                [run[part] for run in arms[arm].values() if part in run] for arm in (first, second)
            )
            if not ones or not others:
                continue
            content = gap(ones, others, resamples=resamples, seed=seed)
        names = {"first": first, "second": second, "part": part, "splits": len(shared)}
        found.append({**names, **content})
    return found


def _judged(run: Mapping[str, Predictions]) -> dict[str, Predictions]:
    """The images themselves of each part, as they are scored."""
    return {part: present.renormalise(rows.originals()) for part, rows in run.items()}


def _aligned(one: Predictions, other: Predictions) -> tuple[Predictions, Predictions] | None:
    """The images of both in one order; None if the arms were tested on different ones."""
    orders = [np.argsort(np.array(rows.image, dtype=object)) for rows in (one, other)]
    one, other = (rows.take(order) for rows, order in zip((one, other), orders, strict=True))
    same = one.image == other.image and np.array_equal(one.label, other.label)
    return (one, other) if same else None


def gap(
    ones: Sequence[Predictions],
    others: Sequence[Predictions],
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The mean of one arm minus that of another that was tested on other images.

    Args:
      ones: of the first arm, one for each run; a row is one image.
      others: of the second; a unit that both were tested on moves in both.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      As `compare`, where `mcnemar` and each `sd` are None and `values` and `per_seed` empty, as
      nothing is paired.
    """
    runs = [*ones, *others]
    clusters = sources(runs)
    label = np.concatenate([run.label for run in runs])
    starts = np.cumsum([len(run) for run in runs])[:-1]

    def difference(weights: np.ndarray) -> dict[str, np.ndarray]:
        found = list(map(metrics.weighted_answers, runs, np.split(weights, starts, axis=1)))
        first, second = found[: len(ones)], found[len(ones) :]
        return {
            key: np.mean([run[key] for run in first], axis=0)
            - np.mean([run[key] for run in second], axis=0)
            for key in SCORES
        }

    drawn = intervals.resampled(label, clusters, difference, resamples=resamples, seed=seed)
    plain = difference(np.ones((1, len(label))))
    return {
        "sources": int(clusters.max()) + 1,
        "difference": {
            key: {
                **summed(intervals.percentile(float(plain[key][0]), drawn[key]), []),
                "exact": False,
            }
            for key in SCORES
        },
        "mcnemar": None,
        "per_seed": [],
    }


def compare(
    ones: Sequence[Predictions],
    others: Sequence[Predictions],
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The first arm minus the second.

    Args:
      ones: of the first arm, one for each seed; a row is one image.
      others: of the second, the same images in the same order.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      sources: independent images; difference: for each of `SCORES` {mean, sd, low, high, exact,
      values}: over the seeds, -1..1, `sd` that of a sample, None for a single seed; mcnemar: of
      `sign_test`, one vote a cluster; per_seed: a list of the same, each the exact McNemar test of
      one seed's images.
    """
    clusters = sources(ones)
    label = np.concatenate([run.label for run in ones])
    starts = np.cumsum([len(run) for run in ones])[:-1]

    def differences(weights: np.ndarray) -> dict[str, np.ndarray]:
        """float64[r, seeds] for each score."""
        columns = np.split(weights, starts, axis=1)
        first, second = (
            list(map(metrics.weighted_answers, runs, columns)) for runs in (ones, others)
        )
        return {
            key: np.stack([a[key] - b[key] for a, b in zip(first, second, strict=True)], axis=1)
            for key in SCORES
        }

    drawn = intervals.resampled(label, clusters, differences, resamples=resamples, seed=seed)
    plain = differences(np.ones((1, len(label))))
    found = {}
    for key in SCORES:
        [values] = plain[key]
        ends = _no_spread(key, values.mean(), label, clusters)
        interval = intervals.percentile(float(values.mean()), drawn[key].mean(axis=1), ends)
        found[key] = {**summed(interval, values.tolist()), "exact": interval.exact}
    right, other_right = (
        np.concatenate([run.predicted for run in runs]) == label for runs in (ones, others)
    )
    balance = right.astype(int) - other_right
    votes = np.bincount(clusters, weights=balance)
    return {
        "sources": int(clusters.max()) + 1,
        "difference": found,
        "mcnemar": sign_test(votes),
        "per_seed": [sign_test(part) for part in np.split(balance, starts)],
    }


def sign_test(balance: np.ndarray) -> dict[str, Any]:
    """Whether more is above zero than below: the exact binomial test, two-sided.

    Args:
      balance: float64[N]; only the signs count, zeros do not.

    Returns:
      {first: how many above zero, second: how many below, p: 0..1, 1 where all are zero}.
    """
    first, second = int((balance > 0).sum()), int((balance < 0).sum())
    p = stats.binomtest(first, first + second).pvalue if first + second else 1.0
    return {"first": first, "second": second, "p": float(p)}


def _no_spread(
    score: str, value: float, label: np.ndarray, clusters: np.ndarray
) -> tuple[float, float]:
    """Ends for where all resamples agree, as they do when both arms gave the same answers.

    No image of n went another way than its like; Clopper and Pearson's bound for none of n says how
    many of all such images may. They can take the difference from its value to -1 or 1 at most. A
    mean of classes is held by its smallest class.
    """
    sizes = [np.unique(clusters[label == index]).size for index in np.unique(label)]
    bound = intervals.exact(0.0, int(clusters.max()) + 1 if score == "accuracy" else min(sizes))[1]
    return value - bound * (1 + value), value + bound * (1 - value)
