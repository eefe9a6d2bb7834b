"""What each branch contributes to a probability: exact Shapley values of two or three branches.

The branches are the players of a game. What a coalition of them is worth for an image and a class
is the probability that the classifier's own head gives when the other branches' features are
replaced by their means over the training images, so that they say nothing about this image. A
branch's Shapley value (Shapley, 1953; Lundberg and Lee, 2017) is what it adds, averaged over the
orders in which the branches can join. With two branches there are two orders, so that nothing has
to be estimated: for A beside B it is ½[v(A) - v()] + ½[v(AB) - v(B)].
"""

import itertools
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.explain.averages import Ratio, mean_over, ratio_intervals

Coalition = frozenset[str]
"""The branches whose features are the image's own."""

Values = dict[Coalition, np.ndarray]
"""float64[N, 3] by coalition: the probabilities that it leads to."""

Features = Mapping[str, np.ndarray]
"""f32[N, d] by branch."""


def coalitions(branches: Sequence[str]) -> list[Coalition]:
    """All sets of branches, the empty one first and the whole one last."""
    return [
        frozenset(chosen)
        for size in range(len(branches) + 1)
        for chosen in itertools.combinations(branches, size)
    ]


def coalition_values(
    head: Callable[[Features], np.ndarray], features: Features, means: Features
) -> Values:
    """What every coalition of branches is worth.

    Args:
      head: features of all branches, f32[N, d] each, to probabilities [N, 3].
      features: the images' own.
      means: f32[d] by branch, over the training images.
    """
    absent = {
        name: np.broadcast_to(means[name], rows.shape).astype(rows.dtype)
        for name, rows in features.items()
    }
    return {
        present: np.asarray(
            head({name: features[name] if name in present else absent[name] for name in features}),
            np.float64,
        )
        for present in coalitions(list(features))
    }


def shapley_values(values: Mapping[Coalition, np.ndarray]) -> dict[str, np.ndarray]:
    """The exact Shapley value of each branch.

    Args:
      values: of every coalition, arrays of one shape.

    Returns:
      By branch, arrays of that shape. Over the branches they sum to what the whole coalition is
      worth less what the empty one is, up to rounding.
    """
    branches = sorted(frozenset().union(*values))
    count = len(branches)
    found = {}
    for branch in branches:
        others = [name for name in branches if name != branch]
        found[branch] = sum(
            (values[before | {branch}] - values[before])
            / (count * math.comb(count - 1, len(before)))
            for before in coalitions(others)
        )
    return found


def summarize(
    values: Mapping[Coalition, np.ndarray],
    truth: np.ndarray | None,
    units: Sequence[str],
    *,
    seed: int,
) -> dict[str, Any]:
    """Shapley values over many images, as explain.json has them.

    Args:
      values: of every coalition, float64[N, 3].
      truth: int[N], the classes; None where they are not known, and the answers take their place.
      units: N names of what is independent, see `averages.ratio_intervals`.
      seed: of the bootstrap.

    Returns:
      Intervals are {value, low, high, exact}.

      * towards: 'truth' or 'answer';
      * shares: {'all' or a class: {branch: interval}}, the part of a branch in all that moves the
        probability of that class, or of all classes, whichever way: Σ|φ| of the branch over Σ|φ|
        of all branches, over all images;
      * moves: {'all' or a class: {branch: interval}}, how far the branch moves the probability of
        the true class (or of the answer) on the images of that class, mean of φ;
      * baseline: {class: probability} where no branch sees the image;
      * alone: {'all' or a class: {coalition: {accuracy, probability: intervals}}}, how often the
        answer of the coalition is right, and the mean probability of the true class; None without
        truth. Coalitions are named 'resnet18+vit', the empty one 'none'.
    """
    found = shapley_values(values)
    branches = list(found)
    everything = values[frozenset(branches)]
    target = everything.argmax(axis=1) if truth is None else truth
    rows = {"all": np.ones(len(target), bool)} | {
        name: target == index for index, name in enumerate(CLASSES)
    }
    ratios: dict[tuple[str, ...], Ratio] = {}
    total = sum(np.abs(phi) for phi in found.values())
    pick = np.arange(len(target)), target
    for group, chosen in rows.items():
        outputs = slice(None) if group == "all" else [CLASSES.index(group)]
        for branch, phi in found.items():
            part, whole = (np.abs(x)[:, outputs].sum(axis=1) for x in (phi, total))
            ratios["shares", group, branch] = part, whole
            ratios["moves", group, branch] = mean_over(phi[pick], chosen)
        for present, probabilities in values.items() if truth is not None else ():
            right = (probabilities.argmax(axis=1) == truth).astype(np.float64)
            ratios["alone", group, name_of(present), "accuracy"] = mean_over(right, chosen)
            ratios["alone", group, name_of(present), "probability"] = mean_over(
                probabilities[pick], chosen
            )
    scored = ratio_intervals(
        {"\n".join(key): ratio for key, ratio in ratios.items()},
        target,
        units,
        seed=seed,
        of_hits=["\n".join(key) for key in ratios if key[-1] == "accuracy"],
    )
    baseline = values[frozenset()].mean(axis=0)
    return {
        "towards": "answer" if truth is None else "truth",
        "counts": {group: int(chosen.sum()) for group, chosen in rows.items()},
        "baseline": dict(zip(CLASSES, baseline.tolist(), strict=True)),
        "alone": None,
        **_nested({tuple(key.split("\n")): interval for key, interval in scored.items()}),
    }


def name_of(present: Coalition) -> str:
    """'resnet18+vit' of the coalition of both, 'none' of the empty one."""
    return "+".join(sorted(present)) or "none"


def _nested(flat: Mapping[tuple[str, ...], Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for (*path, last), value in flat.items():
        place = nested
        for name in path:
            place = place.setdefault(name, {})
        place[last] = value
    return nested
