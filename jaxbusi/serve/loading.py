"""A workdir to a run that is ready to answer, wired here and only here."""

import functools
import logging
from collections.abc import Callable
from pathlib import Path

import jax

from jaxbusi import calibration_file, familiarity, train
from jaxbusi import workdir as workdirs
from jaxbusi.data import splits
from jaxbusi.data.parts import PartSet, load_parts
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError, one_line
from jaxbusi.explain.looker import Looker
from jaxbusi.explain.pictures import BRANCHES
from jaxbusi.explain.saliency import NAMES
from jaxbusi.explain.training_features import TrainingFeatures, training_features
from jaxbusi.fingerprint import fingerprint
from jaxbusi.serve import pictures
from jaxbusi.serve.analyst import BATCH, VIEWS, Analyst, view_settings
from jaxbusi.serve.neighbours import Neighbours
from jaxbusi.serve.record import Record
from jaxbusi.serve.run import ServedRun
from jaxbusi.state import make_mesh

NOTICE = "For research only: not a medical device, not for decisions about patients."


def load(workdir: Path) -> ServedRun:
    """Reads a run, looks at its training images where that was not done, and compiles.

    Raises:
      UserError: the workdir holds no finished run, or its training images were never looked at and
        are gone.
    """
    workdirs.read_config(workdir)  # what is no run is refused before a folder is locked
    mesh = make_mesh(jax.local_devices()[:1])
    run = train.load_model(workdir, mesh)
    settings = run.settings
    looker = Looker(run.model, run.variables, settings.data.augment.crop, mesh, BATCH)
    about_run = fingerprint(run, workdir)
    parts = functools.cache(
        functools.partial(load_parts, settings.data, seed=settings.seed, workdir=workdir)
    )
    with workdirs.claim(workdir):
        training = training_features(workdir, looker, about_run["weights_sha256"], parts)
        neighbours, among = _neighbours(training, parts)
    temperature, calibration = calibration_file.read(workdir, run.step)
    familiar, familiarity_about = familiarity.read(workdir, run.step)
    analyst = Analyst(looker, training.means, temperature or 1.0, familiar)
    logging.info("compiling what answers need")
    maps = {key: NAMES[key] for key in analyst.warm_up()}
    about = {
        **about_run,
        "run": one_line(workdir.absolute().name),
        "protocol": settings.data.protocol,
        "classes": list(CLASSES),
        "branches": {name: BRANCHES[name][0] for name in looker.branches},
        "maps": maps,
        "scale": pictures.scale(),
        "calibration": {"calibrated": temperature is not None, "about": calibration},
        "familiarity": {"known": familiar is not None, "about": familiarity_about},
        "neighbours": {"known": neighbours is not None, "about": among},
        "views": VIEWS,
        "notice": NOTICE,
    }
    rows = splits.read_rows(workdir / "split.csv")
    return ServedRun(
        analyst,
        view_settings(settings.data.augment),
        neighbours,
        _record(workdir, run.step, temperature or 1.0),
        frozenset(row.sha256 for row in rows if row.part == "train"),
        about,
    )


def _neighbours(
    training: TrainingFeatures, parts: Callable[[], PartSet]
) -> tuple[Neighbours | None, str]:
    """The training images; or none where they are gone, and why in words."""
    try:
        store = parts()["train"].store
    except UserError as error:
        logging.warning("the training images cannot be shown: %s", error)
        return None, f"the training images cannot be shown: {error}"
    return Neighbours(training, store), f"among {len(training.image)} training images"


def _record(workdir: Path, step: int, temperature: float) -> Record | None:
    """How often the weights of a step were right; None where it was not found out."""
    results = workdirs.read_results(workdir)
    if results is None or results["checkpoint"]["step"] != step:
        return None
    return Record.read(workdir, temperature)
