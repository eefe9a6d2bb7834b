"""results.json: every score with its interval, for each part of the data."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import atomic, intervals, metrics
from jaxbusi.evaluation.predictions import Predictions


def summarize(
    predictions: Predictions, *, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All scores of one part: on the images, on all their copies, and on the means of the copies.

    Returns:
      {'images': {...}, 'copies': {...}, 'tta': {...}}, the last of test-time augmentation: an image
      gets the mean of the probabilities of its copies. Each with

      * count, sources: rows, and the independent source images among them;
      * accuracy, precision, recall, specificity, f1, auc: {value, low, high}, macro averages but
        for the first;
      * per_class: {class: {precision, recall, ..., auc: {value, low, high}, support: rows}};
      * confusion: 3 lists of 3 counts, rows = truth, in the order of CLASSES;
      * exact: the keys, as 'per_class.normal.recall', whose interval is the exact binomial one
        because the bootstrap had no spread.

      None stands for what is not defined (see `metrics`). Without copies all are the same.
    """
    return {
        name: _summarize_rows(part, resamples=resamples, seed=seed)
        for name, part in kinds_of_rows(predictions).items()
    }


def kinds_of_rows(predictions: Predictions) -> dict[str, Predictions]:
    """The rows that scores are given on: the images, all their copies, the means of the copies."""
    return {
        "images": predictions.originals(),
        "copies": predictions,
        "tta": predictions.mean_of_views(),
    }


def assemble(
    predictions: Mapping[str, Predictions],
    *,
    protocol: str,
    checkpoint: Mapping[str, Any],
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole of results.json.

    Args:
      predictions: by part, the headline part first (it leads the report).
      protocol: how the parts were made, as config.data.protocol names it.
      checkpoint: which one was evaluated: step, epoch, how it was chosen; JSON values.
      resamples: of the bootstrap.
      seed: of the bootstrap.
    """
    return {
        "protocol": protocol,
        "checkpoint": dict(checkpoint),
        "classes": list(CLASSES),
        "intervals": {
            "level": intervals.LEVEL,
            "method": "percentile bootstrap over source images, stratified by class; "
            "exact binomial where listed under 'exact'",
            "resamples": resamples,
            "seed": seed,
        },
        "parts": {
            part: summarize(rows, resamples=resamples, seed=seed)
            for part, rows in predictions.items()
        },
    }


def write_results(path: Path | str, results: Mapping[str, Any]) -> None:
    """Writes strict JSON, in one rename; a NaN left anywhere is an error, not a broken file."""
    text = json.dumps(results, indent=2, allow_nan=False)
    atomic.write_bytes(path, text.encode("ascii") + b"\n")


def _summarize_rows(predictions: Predictions, *, resamples: int, seed: int) -> dict[str, Any]:
    scored = intervals.bootstrap(predictions, resamples=resamples, seed=seed)
    support = np.bincount(predictions.label, minlength=len(CLASSES))
    return {
        "count": len(predictions),
        "sources": int(predictions.source.max()) + 1,
        **{key: as_json(scored[key]) for key in ("accuracy", *metrics.AVERAGED)},
        "per_class": {
            name: {
                **{
                    score: as_json(scored[metrics.class_key(name, score)])
                    for score in metrics.AVERAGED
                },
                "support": int(support[index]),
            }
            for index, name in enumerate(CLASSES)
        },
        "confusion": metrics.confusion(predictions).tolist(),
        "exact": [key for key, interval in scored.items() if interval.exact],
    }


def as_json(interval: intervals.Interval) -> dict[str, float | None]:
    """Value and ends; None stands for what is not defined."""
    ends = {"value": interval.value, "low": interval.low, "high": interval.high}
    return {name: finite(value) for name, value in ends.items()}


def finite(value: float) -> float | None:
    """The number, or None in place of NaN, which JSON does not have."""
    return None if math.isnan(value) else value
