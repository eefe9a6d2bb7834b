"""A trained run and images → explain.json, wired here and only here."""

import contextlib
import functools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbusi import __version__, atomic, train
from jaxbusi import workdir as workdirs
from jaxbusi.bulk import weights_sha256
from jaxbusi.data.parts import load_parts
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation import intervals
from jaxbusi.explain import contributions, subjects
from jaxbusi.explain.arms import arm_values
from jaxbusi.explain.looker import Looker
from jaxbusi.explain.means import training_means
from jaxbusi.explain.subjects import Subject
from jaxbusi.logs import progress_bar
from jaxbusi.state import make_mesh

PART = "test"
"""What is explained where no files are named."""


def explain(
    workdir: Path, given: Sequence[str] = (), out: Path | None = None, *, arms: Sequence[Path] = ()
) -> dict[str, Any]:
    """Explains a run's answers and writes explain.json.

    Args:
      workdir: a folder that `python -m jaxbusi.main` wrote.
      given: files, folders, patterns and CSV lists of images; none for the run's test part.
      out: the folder to write to; `explain` in the workdir by default, `explain/inputs` for files.
      arms: workdirs of runs that were trained on the same split with fewer branches, one for each
        coalition of them.

    Returns:
      The content of explain.json.

    Raises:
      UserError: bad input or settings.
    """
    if arms and given:
        raise UserError("--arms compares on the test part; leave INPUT out")
    workdirs.read_config(workdir)  # what is no run is refused before a folder is made in it
    out = out or workdir / "explain" / ("inputs" if given else ".")
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
        weights = weights_sha256(run.variables)
        means = training_means(workdir, looker, weights, load)
        document = {
            "jaxbusi": __version__,
            "run": workdir.absolute().name,
            "checkpoint_step": run.step,
            "weights_sha256": weights,
            "config_sha256": workdirs.config_sha256(workdir),
            "part": None if given else PART,
            "classes": list(CLASSES),
            "branches": list(looker.branches),
            "intervals": {"level": intervals.LEVEL, "resamples": intervals.RESAMPLES},
            **_look(looker, means, chosen, arms, workdir, run.settings.seed),
        }
        atomic.write_json(out / "explain.json", document)
    logging.info("explanation: %s", out / "explain.json")
    return document


def _look(
    looker: Looker,
    means: contributions.Features,
    chosen: Sequence[Subject],
    arms: Sequence[Path],
    workdir: Path,
    seed: int,
) -> dict[str, Any]:
    """What explain.json says of the images, in sum and of each."""
    values = _coalition_values(looker, means, chosen)
    units = [subject.unit for subject in chosen]
    labels = [subject.label for subject in chosen]
    truth = None if None in labels else np.array(labels, np.int64)
    together = values[frozenset(looker.branches)]
    summed = functools.partial(contributions.summarize, truth=truth, units=units, seed=seed)
    retrained = None
    if arms:
        names = [subject.name for subject in chosen]
        retrained = summed(arm_values(arms, workdir, names, together))
    moved = contributions.shapley_values(values)
    return {
        "contributions": summed(values),
        "arms": retrained,
        "images": [
            {
                "image": subject.name,
                "truth": None if subject.label is None else CLASSES[subject.label],
                "answer": CLASSES[together[row].argmax()],
                "probabilities": together[row].tolist(),
                "baseline": values[frozenset()][row].tolist(),
                "contributions": {name: phi[row].tolist() for name, phi in moved.items()},
            }
            for row, subject in enumerate(chosen)
        ],
    }


def _coalition_values(
    looker: Looker, means: contributions.Features, chosen: Sequence[Subject]
) -> contributions.Values:
    found: list[contributions.Values] = []
    source = subjects.batches(chosen, looker.batch, looker.side)
    bar = progress_bar(len(chosen), "explaining", "image")
    with contextlib.closing(bar), contextlib.closing(source):
        for batch in source:
            count = len(batch.subjects)
            features = looker.features(batch.squares)
            values = contributions.coalition_values(looker.head, features, means)
            found.append({present: rows[:count] for present, rows in values.items()})
            bar.update(count)
    return {present: np.concatenate([rows[present] for rows in found]) for present in found[0]}
