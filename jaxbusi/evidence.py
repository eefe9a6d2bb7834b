"""Probabilities → the files that say how good they are: results.json, figures, the report.

Statistics and figures take seconds to import, so that training imports this when it is done.
"""

import functools
import logging
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from jaxbusi import atomic, calibration_file
from jaxbusi import workdir as workdirs
from jaxbusi.data import pipeline, splits
from jaxbusi.data.images import decode_image, read_file
from jaxbusi.data.parts import Part, PartSet
from jaxbusi.data.store import ImageStore
from jaxbusi.evaluation import baselines, explained, figures, present, report, results
from jaxbusi.evaluation.intervals import Interval
from jaxbusi.evaluation.predictions import PARTS, Predictions
from jaxbusi.logs import read_history
from jaxbusi.models.fusion import model_name
from jaxbusi.settings import Settings


def write_evidence(
    workdir: Path,
    settings: Settings,
    predictions: Mapping[str, Predictions],
    parts: PartSet,
    checkpoint: Mapping[str, Any],
) -> dict[str, Any]:
    """Writes predictions_<part>.csv, results.json, calibration.json, the figures and report.html.

    Args:
      workdir: of the run; its config.json and metrics.jsonl are quoted.
      settings: of the run.
      predictions: by part.
      parts: the images, for the page of mistakes and the picture of a batch.
      checkpoint: which weights these are: JSON values for results.json.

    Returns:
      The content of results.json.
    """
    # Near-copies are hardly new evidence: they move together in the intervals.
    units = splits.units(parts.rows)
    predictions = {name: predictions[name].in_units(units) for name in PARTS if name in predictions}
    judged = {name: present.renormalise(rows) for name, rows in predictions.items()}
    numbers = results.assemble(
        predictions,
        protocol=settings.data.protocol,
        checkpoint=checkpoint,
        leakage=splits.leakage(parts.rows),
        baselines=_baselines(predictions, parts, units, settings.seed),
        seed=settings.seed,
    )
    for name, rows in predictions.items():
        rows.write_csv(workdir / f"predictions_{name}.csv")
    atomic.write_json(workdir / "results.json", numbers)
    calibration_file.write(workdir, numbers["calibration"], checkpoint["step"])
    pictures = figures.write_all(
        workdir / "figures",
        predictions=judged,
        results=numbers,
        history=read_history(workdir),
        load_image={name: functools.partial(_load, parts[name].store) for name in predictions},
        batch=_first_batch(settings, parts["train"]),
    )
    config = workdirs.read_config(workdir)
    run = report.Run(
        name=workdir.absolute().name,
        model=model_name(settings.model.branches, settings.model.vit),
        data=Path(settings.data.root).name or f"{settings.data.phantoms} synthetic images",
        synthetic=not settings.data.root,
        command=config["command"],
        config=config["config"],
        environment={key: config[key] for key in ("versions", "devices")},
        split=splits.part_counts(parts.rows),
        results=numbers,
        predictions=judged,
        pictures=pictures,
        skipped=parts.skipped,
        explained=explained.read(workdir, checkpoint["step"]),
    )
    report.write_report(workdir / "report.html", run)
    for name in predictions:
        scores = numbers["parts"][name]["images"]
        if words := present.sentence(numbers["parts"][name], scores["count"]):
            logging.info("%s: %s", name, words)
        logging.info(
            "%s: accuracy %s, macro precision %s, macro recall %s (%d images; 95 %% intervals)",
            name,
            *(_percent(scores[key]) for key in ("accuracy", "precision", "recall")),
            scores["count"],
        )
    logging.info("report: %s", workdir / "report.html")
    return numbers


def _baselines(
    evaluated: Iterable[str], parts: PartSet, units: Mapping[str, str], seed: int
) -> dict[str, dict[str, dict[str, Interval]]]:
    """What rules that know nothing of tissue reach on each part."""
    train = _seen(parts["train"])
    return {
        name: baselines.summarize(train, _seen(parts[name]), units, seed=seed) for name in evaluated
    }


def _seen(part: Part) -> baselines.Seen:
    rows, first = np.unique(part.samples.image, return_index=True)
    store = part.store
    return baselines.Seen(
        names=[store.records[row].name for row in rows],
        label=part.samples.label[first],
        size=np.array([store.sizes[row] for row in rows], np.float64),
        pixels=np.stack([baselines.row_of_pixels(store.view(row)) for row in rows]),
    )


def _load(store: ImageStore, name: str) -> np.ndarray:
    record = next(record for record in store.records if record.name == name)
    return decode_image(read_file(record.image, name), name)


def _first_batch(settings: Settings, part: Part) -> tuple[np.ndarray, np.ndarray]:
    batches = pipeline.train_batches(
        part.store,
        part.samples,
        settings.data.augment,
        seed=settings.seed,
        batch_size=min(settings.batch_size, len(part.samples)),
        balanced=settings.data.sampling == "balanced",
    )
    batch = next(batches)
    return batch["image"], batch["label"]


def _percent(interval: Mapping[str, float | None]) -> str:
    ends = [interval[key] for key in ("value", "low", "high")]
    value, low, high = ("?" if end is None else f"{100 * end:.1f}" for end in ends)
    return f"{value} % ({low}–{high})"
