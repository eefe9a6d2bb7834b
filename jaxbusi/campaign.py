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
import numpy as np

from jaxbusi import atomic, cluster
from jaxbusi import workdir as workdirs
from jaxbusi.data import busi, splits
from jaxbusi.errors import Stopped, UserError, one_line
from jaxbusi.evaluation import comparison, pairs, study_figures, study_report
from jaxbusi.evaluation.intervals import LEVEL, RESAMPLES
from jaxbusi.evaluation.predictions import PARTS, Predictions
from jaxbusi.logs import read_history
from jaxbusi.plan import Plan, PlannedRun
from jaxbusi.settings import jsonable
from jaxbusi.train import build_model, train_and_evaluate

FAILURE = "failure.txt"
"""Why the run in this folder failed when it was tried last."""
FEATURES = "features"
"""Folder in the study for what frozen branches make of the images, which all its runs share."""


def run_study(config: Mapping[str, Any], workdir: str | Path) -> dict[str, Any] | None:
    """Makes the runs that are not finished and writes the comparison, anew after each.

    Several programs may make the same study at the same time, on as many hosts as share the folder:
    each passes over the runs that another is making.

    Args:
      config: as `configs/table4.py` makes it: the settings of a run, and `study`.
      workdir: folder of the study.

    Returns:
      The content of study.json, see `write_comparison`; None where other programs make all that is
      left and no run is finished.

    Raises:
      UserError: bad settings, a folder with a run of other settings, or no run at all finished.
      Stopped: SIGTERM or SIGINT arrived; the state of the run under way is saved.
    """
    workdir = Path(workdir)
    plan = Plan.from_config(config, workdir)
    check_before(plan)
    elsewhere = 0
    for number, run in enumerate(plan.runs, 1):
        what = f"run {number} of {len(plan.runs)}: {run.name}"
        if cluster.share(is_finished(run)):
            logging.info("%s: finished before", what)
            continue
        logging.info("%s", what)
        try:
            _make(run, plan.workdir / FEATURES)
        except workdirs.WorkdirInUseError as error:
            logging.info("%s: left to the other program (%s)", what, error)
            elsewhere += 1
            continue
        made = [other for other in plan.runs if is_finished(other)]
        if made:
            _check_alike(made)
        if made and run is not plan.runs[-1]:
            try:
                conclude(plan, config, workdir)
            except Exception:  # the last comparison, after all runs, does not pass over it
                if jax.process_count() > 1:
                    raise
                logging.exception("the comparison so far could not be written; the study goes on")
    if elsewhere:
        logging.info("%d runs are being made by other programs", elsewhere)
        if not any(is_finished(run) for run in plan.runs):
            return None
    return conclude(plan, config, workdir)


def conclude(plan: Plan, config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Writes the comparison of what is finished; programs that share the study do so in turn.

    Returns:
      See `write_comparison`.

    Raises:
      UserError: no run is finished.
    """

    def write() -> dict[str, Any]:
        if not any(is_finished(run) for run in plan.runs):
            raise UserError(
                f"none of the {len(plan.runs)} runs finished; the first failed with: "
                f"{_failure(plan.runs[0])}"
            )
        return write_comparison(plan, config, workdir)

    with workdirs.claim(workdir, wait=True):
        return cluster.on_first(write)


def write_comparison(plan: Plan, config: Mapping[str, Any], workdir: Path) -> dict[str, Any]:
    """Writes study.json, study.md, study.html and the figures from the runs that are finished.

    Args:
      plan: the runs; one at least is finished.
      config: of the study, quoted.
      workdir: of the study.

    Returns:
      The content of study.json:

      * arms: by name, {runs: a list of {seed, fold, workdir, finished, error}, published: scores
        that the config quotes, parts: of `comparison.summarize_arm`, baselines: of
        `comparison.mean_baselines`, leakage: of `comparison.sum_leakage`; all three empty where no
        run is finished};
      * pairs: of `pairs.compare_arms`, each arm against each other;
      * protocols: of each arm; splits: {shared_by_arms, differ_by_seed}: whether the arms of a seed
        were tested on the same images, and each seed's on others;
      * intervals, config, command, versions, devices.

      With folds, out_of_fold_<arm>_seed<seed>.csv holds a row for every image of the set; under the
      protocol `leaky` there is none.
    """
    arms: dict[str, dict[str, Any]] = {}
    histories: dict[str, list[list[dict[str, Any]]]] = {}
    predictions: dict[str, dict[tuple[int, int | None], dict[str, Predictions]]] = {}
    for arm in plan.study.arms:
        runs = list(plan.of_arm(arm))
        made = [run for run in runs if is_finished(run)]
        results = [_results(run) for run in made]
        finished = {
            (run.seed, run.fold): _predictions(run, result)
            for run, result in zip(made, results, strict=True)
        }
        predictions[arm] = finished
        histories[arm] = [read_history(run.workdir) for run in made]
        arms[arm] = {
            "published": jsonable(plan.study.published.get(arm, {})),
            "runs": [
                {
                    "seed": run.seed,
                    "fold": run.fold,
                    "workdir": run.workdir.relative_to(workdir).as_posix(),
                    "finished": run in made,
                    "error": _failure(run),
                }
                for run in runs
            ],
            "parts": comparison.summarize_arm(list(finished.values())) if finished else {},
            "baselines": comparison.mean_baselines(results),
            "leakage": comparison.sum_leakage(results),
        }
        # Divided by copies, an image is tested in several folds, and trained on in each of them.
        apart = plan.study.folds and runs[0].settings.data.protocol != "leaky"
        if apart:
            _write_out_of_fold(workdir / f"out_of_fold_{arm}", finished)
    study = {
        "protocols": {run.arm: run.settings.data.protocol for run in plan.runs},
        "splits": _splits(plan),
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
    atomic.write_json(workdir / "study.json", study)
    summed = {arm: content["parts"] for arm, content in arms.items()}
    pictures = study_figures.write_all(workdir / "figures", summed, histories)
    study_report.write_markdown(workdir / "study.md", study)
    study_report.write_page(workdir / "study.html", workdir.absolute().name, study, pictures)
    logging.info("comparison: %s", workdir / "study.html")
    return study


def check_before(plan: Plan) -> None:
    """Finds before the first run what would make every run of an arm fail, or spoil the table."""
    try:
        plan.workdir.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir {plan.workdir} cannot be made: {error.strerror}") from error
    for run in plan.runs:
        if (run.workdir / "config.json").exists():
            workdirs.check_settings(run.workdir, run.settings)
    _check_alike([run for run in plan.runs if is_finished(run)])
    checked = {}
    for run in plan.runs:
        settings = run.settings
        build_model(settings.model, settings.compute_dtype)
        for branch, path in settings.to_json()["weights"].items():
            if path and not Path(path).exists():
                raise UserError(f"config.weights.{branch}={path} does not exist; arm {run.arm}")
        data = settings.data
        if (data.root, data.external) not in checked and not (data.phantoms and not data.root):
            checked[data.root, data.external] = busi.read_records(data.root)
            if data.external:
                busi.read_records(data.external, require_all=False, key="config.data.external")


def _check_alike(finished: list[PlannedRun]) -> None:
    """Refuses to compare runs on different images, or runs of an arm from different weights."""
    images: dict[str, tuple[str, PlannedRun]] = {}
    origins: dict[tuple[str, str], tuple[Any, PlannedRun]] = {}
    for run in finished:
        for row in splits.read_rows(run.workdir / "split.csv"):
            digest, other = images.setdefault(row.image, (row.sha256, run))
            if digest != row.sha256:
                raise UserError(
                    f"{row.image!r} is another image in {run.workdir} than in {other.workdir}; "
                    "study each set in a --workdir of its own"
                )
        for branch, origin in workdirs.read_origins(run.workdir).items():
            now = (origin.sha256, origin.mean, origin.std)
            before, other = origins.setdefault((run.arm, branch), (now, run))
            if before != now:
                raise UserError(
                    f"config.weights.{branch} was another file in {run.workdir} than in "
                    f"{other.workdir}; study each file in a --workdir of its own"
                )


def _make(run: PlannedRun, features: Path) -> None:
    """Makes one run; if it fails, says why in its folder."""
    failure = run.workdir / FAILURE
    try:
        train_and_evaluate(run.settings.to_json(), run.workdir, features=features)
        failure.unlink(missing_ok=True)
    except (Stopped, workdirs.WorkdirInUseError):
        raise
    except Exception as error:  # whatever it is, the other runs may be sound
        known = isinstance(error, UserError)
        why = str(error) if known else f"{type(error).__name__}: {error}"
        logging.error(
            "%s failed, the study goes on: %s", run.workdir, why, exc_info=None if known else error
        )
        text = f"{one_line(' '.join(why.split()))}\n\n{traceback.format_exc()}"
        if jax.process_index() == 0:
            atomic.write_bytes(failure, text.encode("utf-8", "replace"))
        if jax.process_count() > 1:
            raise  # the others may be in the middle of this run: none can go on alone
    finally:
        jax.clear_caches()  # the compiled steps of a run serve no other


def is_finished(run: PlannedRun) -> bool:
    """Whether a run has left all its files."""
    return (run.workdir / "report.html").exists()  # the last file that a run writes


def _failure(run: PlannedRun) -> str | None:
    """The first line of what the run failed with, or None."""
    if is_finished(run):
        return None
    try:
        return (run.workdir / FAILURE).read_text(errors="replace").partition("\n")[0]
    except FileNotFoundError:
        return None


def _predictions(run: PlannedRun, results: Mapping[str, Any]) -> dict[str, Predictions]:
    """The predictions of a finished run with these results, by part, near-copies in units.

    Raises:
      UserError: a file of them is missing or lacks rows.
    """
    units = splits.units(splits.read_rows(run.workdir / "split.csv"))
    found = {}
    for part in PARTS:
        if part not in results["parts"]:
            continue
        path = run.workdir / f"predictions_{part}.csv"
        found[part] = Predictions.read_csv(path).in_units(units)
        count = results["parts"][part]["copies"]["count"]
        if len(found[part]) != count:
            raise UserError(
                f"{path} holds {len(found[part])} of {count} rows; python -m jaxbusi.main "
                f"--mode=evaluate --workdir {run.workdir} writes it anew"
            )
    return found


def _write_out_of_fold(
    stem: Path, finished: Mapping[tuple[int, int | None], Mapping[str, Predictions]]
) -> None:
    """One file for each seed: every image's prediction by the run that did not train on it."""
    for seed in dict.fromkeys(seed for seed, _ in finished):
        folds = [parts["test"].originals() for (of, _), parts in finished.items() if of == seed]
        Predictions(
            [name for fold in folds for name in fold.image],
            np.concatenate([fold.copy for fold in folds]),
            np.concatenate([fold.label for fold in folds]),
            np.concatenate([fold.probabilities for fold in folds]),
        ).write_csv(stem.with_name(f"{stem.name}_seed{seed}.csv"))


def _results(run: PlannedRun) -> dict[str, Any]:
    path = run.workdir / "results.json"
    try:
        content: dict[str, Any] = json.loads(path.read_bytes())
        if not isinstance(content["parts"], dict):
            raise ValueError("parts")
    except (OSError, LookupError, TypeError, ValueError, RecursionError) as error:
        raise UserError(
            f"{path} cannot be read ({error}); python -m jaxbusi.main --mode=evaluate --workdir "
            f"{run.workdir} writes it anew"
        ) from error
    return content


def _splits(plan: Plan) -> dict[str, bool]:
    """Whether each seed's runs were tested on other images, and the arms of a seed on the same."""
    tested: dict[tuple[int, int | None], set[frozenset[str]]] = {}
    for run in plan.runs:
        if is_finished(run):
            rows = splits.read_rows(run.workdir / "split.csv")
            test = frozenset(row.image for row in rows if row.part == "test")
            tested.setdefault((run.seed, run.fold), set()).add(test)
    every = [test for tests in tested.values() for test in tests]
    return {
        "shared_by_arms": all(len(tests) == 1 for tests in tested.values()),
        "differ_by_seed": len(set(every)) > 1 or len(tested) < 2,
    }
