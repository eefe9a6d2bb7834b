"""results.json: every score with its interval, for each part of the data."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxbusi import atomic
from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import (
    calibration,
    intervals,
    metrics,
    operating_points,
    present,
    selective,
)
from jaxbusi.evaluation.predictions import Predictions


def summarize(
    predictions: Predictions, *, resamples: int = intervals.RESAMPLES, seed: int = 0
) -> dict[str, dict[str, Any]]:
    """All scores of one part: on the images, on all their copies, and on the means of the copies.

    Probabilities are renormalised over the classes that occur, see `present`.

    Returns:
      {'images': {...}, 'copies': {...}, 'tta': {...}}, the last of test-time augmentation: an image
      gets the mean of the probabilities of its copies. Each with

      * count, sources: rows, and the independent units among them, see `Predictions.unit`;
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


def judge_probabilities(
    predictions: Predictions,
    temperature: float | None = None,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """What the probabilities of one part are worth, beyond which class is the most probable.

    Args:
      predictions: the model's own, of the images themselves: one answer for each. They are
        renormalised over the classes that occur, see `present`, at any temperature.
      temperature: fitted on another part; None where none was.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      Where an interval is meant, {value, low, high, exact}.

      * operating_points: malignant against the rest, of `operating_points.operating_points`: a list
        of {fixed, at, reached, threshold, best: an interval};
      * calibration: {brier, ece: intervals, bins, scaled: the same three at the temperature, or
        None}, of `calibration.calibration`;
      * selective: a list of {at, coverage, answered, threshold, accuracy: an interval}, of
        `selective.selective_accuracy`.
    """
    judged = present.renormalise(predictions)
    calibrated = calibration.calibration(judged, resamples=resamples, seed=seed)
    calibrated["scaled"] = (
        None
        if temperature is None
        else calibration.calibration(
            present.renormalise(calibration.scale(predictions, temperature)),
            resamples=resamples,
            seed=seed,
        )
    )
    found = {
        "operating_points": operating_points.operating_points(
            judged, resamples=resamples, seed=seed
        ),
        "calibration": calibrated,
        "selective": selective.selective_accuracy(judged, resamples=resamples, seed=seed),
    }
    return {key: _plain(value) for key, value in found.items()}


def _plain(value: Any) -> Any:
    """The same as JSON values: intervals as mappings, NaN as None."""
    if isinstance(value, intervals.Interval):
        return {**as_json(value), "exact": value.exact}
    if isinstance(value, Mapping):
        return {key: _plain(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [_plain(inner) for inner in value]
    return finite(value) if isinstance(value, float) else value


def kinds_of_rows(predictions: Predictions) -> dict[str, Predictions]:
    """The rows that scores are given on: the images, all their copies, the means of the copies.

    Each row is renormalised over the classes that occur before means are taken, see `present`.
    """
    judged = present.renormalise(predictions)
    return {
        "images": judged.originals(),
        "copies": judged,
        "tta": judged.mean_of_views(),
    }


def assemble(
    predictions: Mapping[str, Predictions],
    *,
    protocol: str,
    checkpoint: Mapping[str, Any],
    leakage: Mapping[str, tuple[int, int]],
    baselines: Mapping[str, Mapping[str, Mapping[str, intervals.Interval]]],
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """The whole of results.json.

    Args:
      predictions: by part, the headline part first (it leads the report); the model's own.
      protocol: how the parts were made, as config.data.protocol names it.
      checkpoint: which one was evaluated: step, epoch, how it was chosen; JSON values.
      leakage: of `splits.leakage`.
      baselines: by part, of `baselines.summarize`.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      protocol, checkpoint, classes, intervals, and

      * leakage: of `describe_leakage`;
      * calibration: {temperature, fitted_on: 'validation', images: how many it was fitted on,
        at_edge: the fit ran into `calibration.TEMPERATURES`}; all None without a validation part,
        as nothing may be fitted on what is judged. The probabilities that are written, and all
        scores but `scaled`, are those of the model itself, at temperature 1;
      * parts: by name, what `present.describe`, `summarize` and `judge_probabilities` return, and
        `baselines`: {rule: {accuracy, precision, recall: an interval}}.
    """
    fitted = _fit_temperature(predictions.get("validation"))
    return {
        "protocol": protocol,
        "checkpoint": dict(checkpoint),
        "classes": list(CLASSES),
        "leakage": describe_leakage(leakage),
        "calibration": fitted,
        "intervals": {
            "level": intervals.LEVEL,
            "method": "percentile bootstrap over images, near-copies and copies together, "
            "stratified by class; exact binomial where listed under 'exact'",
            "resamples": resamples,
            "seed": seed,
        },
        "parts": {
            part: present.describe(rows.originals())
            | summarize(rows, resamples=resamples, seed=seed)
            | judge_probabilities(
                rows.originals(),
                fitted["temperature"] if part != fitted["fitted_on"] else None,
                resamples=resamples,
                seed=seed,
            )
            | {"baselines": _plain(baselines.get(part, {}))}
            for part, rows in predictions.items()
        },
    }


def describe_leakage(leakage: Mapping[str, tuple[int, int]]) -> dict[str, dict[str, int]]:
    """{part: {near_copy_in_training: images that have one, images: all of the part}}.

    Images of one group or patient count as near-copies where groups or patients are given.

    Args:
      leakage: of `splits.leakage`.
    """
    return {
        part: {"near_copy_in_training": leaked, "images": images}
        for part, (leaked, images) in leakage.items()
    }


def _fit_temperature(validation: Predictions | None) -> dict[str, Any]:
    """The content of `calibration` in results.json, see `assemble`."""
    if validation is None:
        return dict.fromkeys(("temperature", "fitted_on", "images", "at_edge"))
    images = validation.originals()
    temperature = calibration.fit_temperature(images)
    return {
        "temperature": temperature,
        "fitted_on": "validation",
        "images": len(images),
        "at_edge": calibration.at_edge(temperature),
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
