"""A trained run and images → explain.json and pictures, wired here and only here."""

import functools
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbusi import atomic, train
from jaxbusi import workdir as workdirs
from jaxbusi.data.parts import PartSet, load_parts
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation import explained, intervals
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.evaluation.results import finite
from jaxbusi.evidence import write_evidence
from jaxbusi.explain import (
    agreement,
    contributions,
    occlusion,
    pictures,
    randomised,
    subjects,
)
from jaxbusi.explain.arms import arm_values
from jaxbusi.explain.looker import Looker
from jaxbusi.explain.observe import Observed, maps_under, observe
from jaxbusi.explain.randomised import rank_correlations
from jaxbusi.explain.saliency import NAMES
from jaxbusi.explain.subjects import Subject, truth_of
from jaxbusi.explain.training_features import training_features
from jaxbusi.fingerprint import fingerprint
from jaxbusi.state import make_mesh

PART = "test"
"""What is explained where no files are named."""

PICTURES = 12
"""Images that are drawn, where nobody asks for another number."""


def explain(
    workdir: Path,
    given: Sequence[str] = (),
    out: Path | None = None,
    *,
    arms: Sequence[Path] = (),
    count: int = PICTURES,
) -> tuple[dict[str, Any], Path]:
    """Explains a run's answers and writes explain.json, explain.html and figures/explained_NN.png.

    Args:
      workdir: a folder that `python -m jaxbusi.main` wrote.
      given: files, folders, patterns and CSV lists of images; none for the run's test part.
      out: the folder to write to; `explain` in the workdir by default, `explain/inputs` for files.
      arms: workdirs of runs that were trained on the same split with fewer branches, one for each
        coalition of them.
      count: how many images to draw at most.

    Returns:
      The content of explain.json, and the folder that it is in.

    Raises:
      UserError: bad input or settings.
    """
    if arms and given:
        raise UserError("--arms compares on the test part; leave INPUT out")
    workdirs.read_config(workdir)  # what is no run is refused before a folder is made in it
    out = out or workdir / "explain" / ("inputs" if given else ".")
    atomic.check_writable(out)  # minutes of work are not lost for that
    with workdirs.claim(workdir):
        mesh = make_mesh(jax.local_devices())
        run = train.load_model(workdir, mesh)
        load = functools.cache(
            functools.partial(
                load_parts, run.settings.data, seed=run.settings.seed, workdir=workdir
            )
        )
        chosen = subjects.of_inputs(given) if given else subjects.of_part(load(), PART)
        side = run.settings.data.augment.crop
        looker = Looker(run.model, run.variables, side, mesh, len(chosen))
        about = fingerprint(run, workdir)
        means = training_features(workdir, looker, about["weights_sha256"], load).means
        described, seen = _describe(looker, means, chosen, arms, workdir, run.settings.seed)
        document = {
            **about,
            "run": workdir.absolute().name,
            "part": None if given else PART,
            "classes": list(CLASSES),
            "branches": list(looker.branches),
            "maps": {key: words for key, words in NAMES.items() if key in seen.maps},
            "kinds": occlusion.KINDS,
            "intervals": {"level": intervals.LEVEL, "resamples": intervals.RESAMPLES},
            **described,
            "pictures": _draw(out / "figures", chosen, seen, count),
        }
        atomic.write_json(out / "explain.json", document)
        explained.write_page(out / "explain.html", document, out)
        logging.info("explanation: %s", out / "explain.html")
        if not given and out.resolve() == (workdir / "explain").resolve():
            _report(workdir, run, load())
    return document, out


def _report(workdir: Path, run: train.TrainedRun, parts: PartSet) -> None:
    """Writes the run's report anew, with the explanation."""
    results = workdirs.read_results(workdir)
    if results is None or results["checkpoint"]["step"] != run.step:
        logging.warning(
            "%s has no results of step %d; --mode=evaluate writes them, and the report with the "
            "explanation",
            *(workdir, run.step),
        )
        return
    predictions = {
        name: Predictions.read_csv(workdir / f"predictions_{name}.csv")
        for name in parts.parts
        if name != "train"
    }
    write_evidence(workdir, run.settings, predictions, parts, results["checkpoint"])


def _describe(
    looker: Looker,
    means: contributions.Features,
    chosen: Sequence[Subject],
    arms: Sequence[Path],
    workdir: Path,
    seed: int,
) -> tuple[dict[str, Any], Observed]:
    """What explain.json says of the images, in sum and of each; and what it was found from."""
    seen = observe(looker, means, chosen)
    truth, units = truth_of(chosen), [subject.unit for subject in chosen]
    together = seen.values[frozenset(looker.branches)]
    answer = together.argmax(axis=1)
    drawn = {
        level: maps_under(looker, chosen, weights, answer)
        for level, weights in looker.random_weights(seed).items()
    }
    correlations = {
        level: {name: rank_correlations(seen.maps[name], rows) for name, rows in maps.items()}
        for level, maps in drawn.items()
    }
    label = answer if truth is None else truth
    agreed = {}
    if seen.lesions is not None and seen.lesions.any():
        for level, maps in {"trained": seen.maps, **drawn}.items():
            agreed[level] = {
                name: agreement.agree(rows, seen.lesions, units) for name, rows in maps.items()
            }
    summed = functools.partial(contributions.summarize, truth=truth, units=units, seed=seed)
    names = [subject.name for subject in chosen]
    described = {
        "contributions": summed(seen.values),
        "arms": summed(arm_values(arms, workdir, names, together)) if arms else None,
        "agreement": {
            level: agreement.summarize(scores, label, units, seed=seed)
            for level, scores in agreed.items()
        },
        "randomised": randomised.summarize(correlations, label, units, seed=seed),
        "occlusion": occlusion.summarize(seen.changes, seen.changed, label, units, seed=seed),
        "images": _each(chosen, seen, agreed.get("trained", {})),
    }
    return described, seen


def _each(
    chosen: Sequence[Subject], seen: Observed, agreed: Mapping[str, Mapping[str, np.ndarray]]
) -> list[dict[str, Any]]:
    """What explain.json says of each image."""
    moved = contributions.shapley_values(seen.values)
    together = seen.values[frozenset(moved)]
    return [
        {
            "image": subject.name,
            "truth": None if subject.label is None else CLASSES[subject.label],
            "answer": CLASSES[together[row].argmax()],
            "probabilities": together[row].tolist(),
            "baseline": seen.values[frozenset()][row].tolist(),
            "contributions": {name: phi[row].tolist() for name, phi in moved.items()},
            "agreement": {
                name: {key: finite(float(scores[key][row])) for key in ("energy", "pointing")}
                for name, scores in agreed.items()
            },
            "occlusion": {
                kind: float(changes[row])
                for kind, changes in seen.changes.items()
                if np.isfinite(changes[row])
            },
        }
        for row, subject in enumerate(chosen)
    ]


def _draw(
    folder: Path, chosen: Sequence[Subject], seen: Observed, count: int
) -> list[dict[str, str]]:
    """Draws some of the images; returns what explain.json says of the pictures."""
    for old in folder.glob("explained_*.png"):
        old.unlink()
    moved = contributions.shapley_values(seen.values)
    together = seen.values[frozenset(moved)]
    drawn = []
    for number, row in enumerate(pictures.choose(truth_of(chosen), together, count), 1):
        subject = chosen[row]
        image = subject.read()
        one = pictures.Explained(
            name=subject.name,
            image=image,
            lesion=subject.lesion(image.shape[:2]),
            truth=subject.label,
            probabilities=together[row],
            baseline=seen.values[frozenset()][row],
            contributions={name: phi[row] for name, phi in moved.items()},
            maps={name: rows[row] for name, rows in seen.maps.items()},
        )
        name = f"explained_{number:02d}.png"
        pictures.draw(one, folder / name)
        drawn.append(
            {
                "file": f"{folder.name}/{name}",
                "image": subject.name,
                "title": one.title(),
                "alt": one.alt(),
            }
        )
    return drawn
