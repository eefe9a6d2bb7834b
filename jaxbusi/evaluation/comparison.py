"""study.json: arms side by side, each over its seeds."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from jaxbusi.evaluation import intervals, metrics, present
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.evaluation.results import as_json, finite, kinds_of_rows

METHOD = (
    "percentile bootstrap of the mean over the runs; an image moves with its copies and "
    "near-copies and through all runs that were tested on it"
)

RunParts = Mapping[str, Predictions]
"""The predictions of one run, by part."""


def summarize_arm(
    runs: Sequence[RunParts], *, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """The scores of one arm over its runs.

    Args:
      runs: the finished ones, one at least; the model's own probabilities.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      {part: {'classes': [...], 'renormalised': bool, 'images': {...}, 'copies': {...}, 'tta':
      {...}}} for the parts that all runs have: names of the classes that occur, whether
      probabilities are renormalised over them (see `present`), and each of the last three with

      * scores: for each key of `metrics.scores` {mean, sd, low, high, values}: over the
        runs; `sd` is that of a sample, None for a single run; `low` and `high` are the 95 %
        interval of the mean for other images, see `intervals.bootstrap_mean`; `values` are in the
        order of `runs`;
      * sources: independent units over all runs, see `Predictions.unit`;
      * confusion: 3 lists of 3 counts, the sum over the runs.
    """
    parts = [name for name in runs[0] if all(name in run for run in runs)]
    return {
        part: present.classes_of(np.concatenate([run[part].label for run in runs]))
        | {
            kind: _summarize([rows[kind] for rows in kinds], resamples=resamples, seed=seed)
            for kind in ("images", "copies", "tta")
        }
        for part in parts
        for kinds in [[kinds_of_rows(run[part]) for run in runs]]
    }


def mean_baselines(results: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What rules that know nothing of tissue reach on the images that an arm was tested on.

    Args:
      results: the contents of the runs' results.json.

    Returns:
      {part: {rule: {score: {mean, sd}}}}, see `baselines.NAMES`.
    """
    found: dict[str, Any] = {}
    for part, content in (results[0]["parts"] if results else {}).items():
        runs = [run["parts"][part]["baselines"] for run in results if part in run["parts"]]
        found[part] = {
            rule: {
                score: _mean_and_spread([run[rule][score]["value"] for run in runs])
                for score in scores
            }
            for rule, scores in content["baselines"].items()
        }
    return found


def sum_leakage(results: Sequence[Mapping[str, Any]]) -> dict[str, dict[str, int]]:
    """Near-copies of the tested images in training, over the runs of an arm.

    Args:
      results: the contents of the runs' results.json.

    Returns:
      {part: {near_copy_in_training: images that have one, images: all}}, each once a run.
    """
    found: dict[str, dict[str, int]] = {}
    for run in results:
        for part, counts in run["leakage"].items():
            total = found.setdefault(part, dict.fromkeys(counts, 0))
            for key, count in counts.items():
                total[key] += count
    return found


def _mean_and_spread(values: Sequence[float]) -> dict[str, float | None]:
    spread = float(np.std(values, ddof=1)) if len(values) > 1 else None
    return {"mean": float(np.mean(values)), "sd": spread}


def _summarize(runs: Sequence[Predictions], *, resamples: int, seed: int) -> dict[str, Any]:
    scored = intervals.bootstrap_mean(runs, resamples=resamples, seed=seed)
    values = [metrics.scores(run) for run in runs]
    confusion = np.sum([metrics.confusion(run) for run in runs], axis=0)
    return {
        "sources": len({name for run in runs for name in run.unit}),
        "confusion": confusion.tolist(),
        "scores": {
            key: summed(interval, [run[key] for run in values]) for key, interval in scored.items()
        },
    }


def summed(interval: intervals.Interval, values: Sequence[float]) -> dict[str, Any]:
    """{mean, sd, low, high, values} of a mean over runs with its interval, as JSON values."""
    ends = as_json(interval)
    return {
        "mean": ends["value"],
        "sd": finite(float(np.std(values, ddof=1))) if len(values) > 1 else None,
        "low": ends["low"],
        "high": ends["high"],
        "values": [finite(value) for value in values],
    }
