"""Many runs, one after the other, each kept when it is finished; and what they say together.

Each run has a folder of its own, <arm>/seed<seed>, with all that a single run leaves. What is
compared is read from there, so that it makes no difference when and by whom a run was made.
"""

import json
import logging
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from jaxbusi import workdir as workdirs
from jaxbusi.errors import Stopped, UserError
from jaxbusi.evaluation import atomic, comparison, pairs, study_figures, study_report
from jaxbusi.evaluation.intervals import LEVEL, RESAMPLES
from jaxbusi.evaluation.predictions import PARTS, Predictions
from jaxbusi.logs import read_history
from jaxbusi.plan import Plan, PlannedRun
from jaxbusi.settings import jsonable
from jaxbusi.train import train_and_evaluate

FAILURE = "failure.txt"
"""Why the run in this folder failed when it was tried last."""


def run_study(config: Mapping[str, Any], workdir: str | Path) -> dict[str, Any]:
    """Makes the runs that are not finished and writes the comparison, anew after each.

    Args:
      config: as `configs/table4.py` makes it: the settings of a run, and `study`.
      workdir: folder of the study.

    Returns:
      The content of study.json, see `write_comparison`.

    Raises:
      UserError: bad settings, a folder with a run of other settings, or no run at all finished.
      Stopped: SIGTERM or SIGINT arrived; the state of the run under way is saved.
    """
    workdir = Path(workdir)
    plan = Plan.from_config(config, workdir)
    for run in plan.runs:
        if (run.workdir / "config.json").exists():
            workdirs.check_settings(run.workdir, run.settings)
    for number, run in enumerate(plan.runs, 1):
        what = f"run {number} of {len(plan.runs)}: {run.arm}, seed {run.seed}"
        if _finished(run):
            logging.info("%s: finished before", what)
            continue
        logging.info("%s", what)
        _make(run)
        if any(_finished(other) for other in plan.runs):
            write_comparison(plan, config, workdir)
    if not any(_finished(run) for run in plan.runs):
        raise UserError(
            f"none of the {len(plan.runs)} runs finished; the first failed with: "
            f"{_failure(plan.runs[0])}"
        )
    return write_comparison(plan, config, workdir)


def write_comparison(plan: Plan, config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Writes study.json, study.md, study.html and the figures from the runs that are finished.

    Args:
      plan: the runs; one at least is finished.
      config: of the study, quoted.
      workdir: of the study.

    Returns:
      The content of study.json:

      * arms: by name, {runs: a list of {seed, workdir, finished, error}, published: the scores that
        the config quotes, parts: of `comparison.summarize_arm`, empty where no run is finished};
      * pairs: of `pairs.compare_arms`, each arm against each other on the same images;
      * protocol, intervals, config, command, versions, devices.
    """
    arms: dict[str, dict[str, Any]] = {}
    histories, predictions = {}, {}
    for arm in plan.study.arms:
        runs = list(plan.of_arm(arm))
        finished = {run.seed: _predictions(run) for run in runs if _finished(run)}
        predictions[arm] = finished
        histories[arm] = [read_history(run.workdir) for run in runs if _finished(run)]
        arms[arm] = {
            "published": jsonable(plan.study.published.get(arm, {})),
            "runs": [
                {
                    "seed": run.seed,
                    "workdir": run.workdir.relative_to(workdir).as_posix(),
                    "finished": _finished(run),
                    "error": _failure(run),
                }
                for run in runs
            ],
            "parts": comparison.summarize_arm(finished) if finished else {},
        }
    study = {
        "protocol": plan.runs[0].settings.data.protocol,
        "arms": arms,
        "pairs": pairs.compare_arms(predictions),
        "intervals": {
            "level": LEVEL,
            "resamples": RESAMPLES,
            "method": comparison.METHOD,
            "pairs": pairs.METHOD,
        },
        "config": jsonable(config),
        **workdirs.environment(),
    }
    if jax.process_index() > 0:
        return study
    text = json.dumps(study, indent=2, allow_nan=False)
    atomic.write_bytes(workdir / "study.json", text.encode("ascii") + b"\n")
    summed = {arm: content["parts"] for arm, content in arms.items()}
    pictures = study_figures.write_all(workdir / "figures", summed, histories)
    study_report.write_markdown(workdir / "study.md", study)
    study_report.write_page(workdir / "study.html", workdir.absolute().name, study, pictures)
    logging.info("comparison: %s", workdir / "study.html")
    return study


def _make(run: PlannedRun) -> None:
    """Makes one run; if it fails, says why in its folder."""
    failure = run.workdir / FAILURE
    try:
        train_and_evaluate(run.settings.to_json(), run.workdir)
        failure.unlink(missing_ok=True)
    except Stopped:
        raise
    except Exception as error:  # whatever it is, the other runs may be sound
        logging.exception("%s failed; the study goes on", run.workdir)
        why = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        text = f"{' '.join(why.split())}\n\n{traceback.format_exc()}"
        atomic.write_bytes(failure, text.encode("utf-8", "replace"))
    finally:
        jax.clear_caches()  # the compiled steps of a run serve no other


def _finished(run: PlannedRun) -> bool:
    return (run.workdir / "report.html").exists()  # the last file that a run writes


def _failure(run: PlannedRun) -> str | None:
    """The first line of what the run failed with, or None."""
    if _finished(run):
        return None
    try:
        return (run.workdir / FAILURE).read_text().partition("\n")[0]
    except FileNotFoundError:
        return None


def _predictions(run: PlannedRun) -> dict[str, Predictions]:
    """The predictions of a finished run, by part."""
    found = {
        path.stem.removeprefix("predictions_"): path
        for path in run.workdir.glob("predictions_*.csv")
    }
    return {part: Predictions.read_csv(found[part]) for part in PARTS if part in found}
