"""Arms × seeds: each finished run kept, failures recorded, and one comparison over all."""

import copy
import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from configs import protocols, table4, table4_dinov2
from jaxbusi import campaign, command
from jaxbusi import study as study_command
from jaxbusi.campaign import run_study
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation import intervals, study_figures, study_report
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.plan import Plan
from jaxbusi.train import Stopped
from tests.runs import make_config, stop_after
from tests.test_report import Page

ROOT = Path(__file__).parents[1]


def make_study(root, seeds=(0, 1), **changes):
    """Two arms that differ in their learning rate."""
    config = make_config(root, num_epochs=1.0)
    with config.unlocked():
        config.study = {
            "seeds": seeds,
            "folds": 0,
            "arms": ("slow", "fast"),
            "changes": {"fast": {"optim": {"learning_rate": 0.01}}, "slow": {}},
            "published": {"fast": {"accuracy": 0.932, "recall": 0.926}},
        }
    config.update_from_flattened_dict(changes)
    return config


def accuracy(workdir):
    """Of the images themselves, counted from the file of predictions."""
    with (workdir / "predictions_test.csv").open() as file:
        rows = [row for row in csv.DictReader(file) if row["copy"] == "0"]
    hits = sum(max(CLASSES, key=lambda name: float(row[name])) == row["label"] for row in rows)
    return hits / len(rows)


@pytest.fixture(scope="module")
def finished(tmp_path_factory, phantoms):
    """A finished study, not to be written to, and what it returned."""
    folder = tmp_path_factory.mktemp("study")
    with pytest.MonkeyPatch.context() as patch:
        from jaxbusi import train
        from tests.tiny import TinyModel

        patch.setattr(train, "build_model", lambda *_: TinyModel())
        return folder, run_study(make_study(phantoms), folder)


def test_the_numbers_are_those_of_the_runs(finished):
    folder, study = finished
    assert json.loads((folder / "study.json").read_text()) == study
    assert list(study["arms"]) == ["slow", "fast"]
    for arm, content in study["arms"].items():
        runs = [folder / arm / f"seed{seed}" for seed in (0, 1)]
        assert [run["workdir"] for run in content["runs"]] == [f"{arm}/seed0", f"{arm}/seed1"]
        assert all(run["finished"] and run["error"] is None for run in content["runs"])
        scores = content["parts"]["test"]["images"]["scores"]
        values = [accuracy(run) for run in runs]
        assert scores["accuracy"]["values"] == pytest.approx(values)
        assert scores["accuracy"]["mean"] == pytest.approx(sum(values) / 2)
        assert scores["accuracy"]["sd"] == pytest.approx(abs(values[0] - values[1]) / 2**0.5)
        assert scores["accuracy"]["low"] <= scores["accuracy"]["mean"] <= scores["accuracy"]["high"]
        for kind in ("images", "copies", "tta"):
            own = [json.loads((run / "results.json").read_text()) for run in runs]
            wanted = np.sum([one["parts"]["test"][kind]["confusion"] for one in own], axis=0)
            assert content["parts"]["test"][kind]["confusion"] == wanted.tolist()
    assert study["arms"]["fast"]["published"] == {"accuracy": 0.932, "recall": 0.926}


def test_the_arms_are_compared_on_the_same_images(finished):
    folder, study = finished
    [pair] = study["pairs"]
    assert (pair["first"], pair["second"], pair["part"]) == ("slow", "fast", "test")
    assert pair["splits"] == 2
    slow, fast = ([accuracy(folder / arm / f"seed{s}") for s in (0, 1)] for arm in ("slow", "fast"))
    difference = pair["difference"]["accuracy"]
    assert difference["mean"] == pytest.approx((sum(slow) - sum(fast)) / 2)
    assert difference["low"] <= difference["mean"] <= difference["high"]
    page = Page((folder / "study.html").read_text())
    votes = f"{pair['mcnemar']['first']} : {pair['mcnemar']['second']}"
    shown = f"{100 * difference['mean']:+.1f} ± {100 * difference['sd']:.1f}".replace("-", "−")
    assert f"slow − fast 2 {shown} (" in page.text
    assert f"{votes} {pair['mcnemar']['p']:.3f}" in page.text
    assert "may turn round with other seeds" in page.text
    table = (folder / "study.md").read_text()
    assert f"| slow − fast | 2 | {shown} (" in table
    assert f"| {votes} | {pair['mcnemar']['p']:.3f} |" in table


def test_arms_share_the_split_of_a_seed_and_seeds_do_not(finished):
    folder, _ = finished
    splits = {
        (arm, seed): (folder / arm / f"seed{seed}" / "split.csv").read_bytes()
        for arm in ("slow", "fast")
        for seed in (0, 1)
    }
    assert splits["slow", 0] == splits["fast", 0]
    assert splits["slow", 0] != splits["slow", 1]


def test_the_pages(finished):
    folder, study = finished
    page = Page((folder / "study.html").read_text())
    mean = study["arms"]["fast"]["parts"]["test"]["copies"]["scores"]["accuracy"]["mean"]
    for text in (f"{100 * mean:.1f} ±", "93.2 / – / 92.6", "Research use only", "fast/seed1"):
        assert text in page.text
    assert "Not complete" not in page.text
    # In short: each arm with its accuracy on the images, the better one against the other.
    images = {
        arm: content["parts"]["test"]["images"]["scores"]["accuracy"]
        for arm, content in study["arms"].items()
    }
    for arm, accuracy in images.items():
        assert f"{arm} {100 * accuracy['mean']:.1f} % 95 % interval" in page.text
    best, other = sorted(images, key=lambda arm: -images[arm]["mean"])
    ahead = 100 * (images[best]["mean"] - images[other]["mean"])
    assert f"{best} is {ahead:.1f} points more accurate than {other} (95 % interval" in page.text
    found = study["arms"]["fast"]["leakage"]["test"]
    runs = [json.loads((folder / f"fast/seed{seed}/results.json").read_text()) for seed in (0, 1)]
    for key, count in found.items():
        assert count == sum(run["leakage"]["test"][key] for run in runs)
    assert f"{found['near_copy_in_training']} of {found['images']} test images" in page.text
    assert "76.8 % on its validation set" in page.text
    # The arms share their test images, so that the rules stand there once.
    assert page.text.count("the most similar training image") == 1
    # One picture of the curves, and two confusion matrices for each arm; nothing from elsewhere.
    images = page.all("img")
    assert len(images) == 5
    assert all(image["src"].startswith("data:image/png;base64,") for image in images)
    assert sorted(path.name for path in (folder / "figures").iterdir()) == [
        "confusion_fast_test_copies.png",
        "confusion_fast_test_images.png",
        "confusion_slow_test_copies.png",
        "confusion_slow_test_images.png",
        "curves_test.png",
    ]
    table = (folder / "study.md").read_text()
    assert f"| fast | 2 | {100 * mean:.1f} ±" in table
    assert table.count("| slow | 2 |") == 3
    assert table.count("93.2 / – / 92.6") == 1  # the paper's are on copies alone
    assert table.startswith("Protocol: paper. 4 of 4 runs are finished.\n")


BETTER = " is 5.0 points more accurate than "


@pytest.mark.parametrize(
    ("mean", "low", "high", "said"),
    [
        (0.05, 0.01, 0.12, f"slow{BETTER}fast (95 % interval 1.0 to 12.0)."),
        (-0.05, -0.12, -0.01, f"fast{BETTER}slow (95 % interval 1.0 to 12.0)."),
        (-0.05, -0.12, 0.02, f"fast{BETTER}slow (95 % interval −2.0 to 12.0): these images do not"),
    ],
)
def test_the_page_says_in_short_which_model_is_better(finished, tmp_path, mean, low, high, said):
    study = copy.deepcopy(finished[1])
    [pair] = study["pairs"]
    assert (pair["first"], pair["second"]) == ("slow", "fast")
    pair["difference"]["accuracy"] |= {"mean": mean, "low": low, "high": high}
    study_report.write_page(tmp_path / "s.html", "name", study, [])
    assert said in Page((tmp_path / "s.html").read_text()).text


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_finished_runs_are_kept_and_more_seeds_may_be_asked_for(tmp_path, phantoms, monkeypatch):
    made = []
    train = campaign.train_and_evaluate

    def counting(config, workdir, **shared):
        made.append(workdir.relative_to(tmp_path).as_posix())
        return train(config, workdir, **shared)

    monkeypatch.setattr(campaign, "train_and_evaluate", counting)
    one = {"study.arms": ("slow",)}
    run_study(make_study(phantoms, seeds=(0,), **one), tmp_path)
    assert made == ["slow/seed0"]
    made.clear()
    study = run_study(make_study(phantoms, seeds=(0, 7), **one), tmp_path)
    assert made == ["slow/seed7"]
    assert study["arms"]["slow"]["parts"]["test"]["images"]["scores"]["accuracy"]["sd"] is not None
    made.clear()
    assert run_study(make_study(phantoms, seeds=(0, 7), **one), tmp_path) == study
    assert made == []
    with pytest.raises(UserError, match=r"slow/seed0 holds a run with other settings.*l2"):
        run_study(make_study(phantoms, **{"optim.l2": 0.1}), tmp_path)
    assert made == []


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_a_stopped_study_goes_on_in_the_run_that_was_stopped(tmp_path, phantoms, monkeypatch):
    config = make_study(phantoms, seeds=(0,), **{"study.arms": ("fast",)})
    undo = stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        run_study(config, tmp_path)
    undo()
    study = run_study(config, tmp_path)
    [run] = study["arms"]["fast"]["runs"]
    assert run["finished"]
    assert run["error"] is None


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_a_run_that_fails_is_recorded_and_tried_again(tmp_path, phantoms, monkeypatch):
    train = campaign.train_and_evaluate

    def failing(config, workdir, **shared):
        if workdir.parent.name == "slow":
            workdir.mkdir(parents=True, exist_ok=True)
            raise RuntimeError("out of <b>memory</b>\nat step 3")
        return train(config, workdir, **shared)

    monkeypatch.setattr(campaign, "train_and_evaluate", failing)
    config = make_study(phantoms, seeds=(0,))
    study = run_study(config, tmp_path)
    [run] = study["arms"]["slow"]["runs"]
    assert run == {
        "seed": 0,
        "fold": None,
        "workdir": "slow/seed0",
        "finished": False,
        "error": "RuntimeError: out of <b>memory</b> at step 3",
    }
    assert "Traceback" in (tmp_path / "slow/seed0/failure.txt").read_text()
    assert study["arms"]["slow"]["parts"] == {}
    assert study["arms"]["fast"]["runs"][0]["finished"]
    page = Page((tmp_path / "study.html").read_text())
    assert "1 of 2 runs are finished, 1 failed" in page.text
    assert "out of <b>memory</b> at step 3" in page.text
    assert not page.all("b")
    assert "slow/seed0 failed: RuntimeError" in (tmp_path / "study.md").read_text()

    monkeypatch.setattr(campaign, "train_and_evaluate", train)
    again = run_study(config, tmp_path)
    assert again["arms"]["slow"]["runs"][0]["error"] is None
    assert not (tmp_path / "slow/seed0/failure.txt").exists()


def test_a_study_of_which_nothing_finished(tmp_path, phantoms, monkeypatch):
    def failing(*_, **__):
        raise UserError("no luck")

    monkeypatch.setattr(campaign, "train_and_evaluate", failing)
    with pytest.raises(UserError, match=r"none of the 4 runs finished; .* with: no luck"):
        run_study(make_study(phantoms), tmp_path)
    assert not (tmp_path / "study.json").exists()


def test_what_would_make_every_run_fail_is_found_before_the_first(tmp_path, phantoms, monkeypatch):
    monkeypatch.setattr(
        campaign, "train_and_evaluate", lambda *_, **__: pytest.fail("a run was made")
    )
    cases = (
        (make_study("/nowhere"), r"config\.data\.root.*/nowhere"),
        (make_study(phantoms, **{"data.external": "/other"}), r"config\.data\.external.*/other"),
        (
            make_study(phantoms, **{"weights.vit": "/vit.pth"}),
            r"weights\.vit=/vit\.pth does not",
        ),
        (make_study(phantoms, **{"model.vit": "B17"}), r"config\.model\.vit has no 'B17'"),
    )
    for config, message in cases:
        with pytest.raises(UserError, match=message):
            run_study(config, tmp_path / "study")
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"--workdir .*file cannot be made"):
        run_study(make_study(phantoms), tmp_path / "file")


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_runs_on_other_images_are_not_compared(tmp_path, phantoms):
    one = {"study.arms": ("slow",)}
    run_study(make_study(phantoms, seeds=(0,), **one), tmp_path)
    other = tmp_path / "other"
    for path in phantoms.rglob("*.png"):
        target = other / path.relative_to(phantoms)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    victim = other / "benign" / "benign (3).png"
    victim.write_bytes((phantoms / "benign" / "benign (4).png").read_bytes())
    with pytest.raises(UserError, match=r"'benign/benign \(3\)\.png' is another image in .*seed1"):
        run_study(make_study(other, seeds=(0, 1), **one), tmp_path)


def test_predictions_that_lack_rows_are_not_summed(finished, tmp_path):
    folder, _ = finished
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    path = copy / "slow" / "seed1" / "predictions_test.csv"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:7]))
    config = json.loads((copy / "study.json").read_text())["config"]
    with pytest.raises(UserError, match=r"predictions_test\.csv holds 6 of 12 rows; .*=evaluate"):
        run_study(config, copy)


@pytest.mark.parametrize("content", ["", "[]", '{"parts": 3}', "[" * 100_000, "\0"])
def test_results_that_cannot_be_read_are_named(finished, tmp_path, content):
    folder, _ = finished
    copy = tmp_path / "study"
    shutil.copytree(folder, copy)
    (copy / "slow" / "seed1" / "results.json").write_text(content)
    config = json.loads((copy / "study.json").read_text())["config"]
    with pytest.raises(UserError, match=r"seed1/results\.json cannot be read .*=evaluate"):
        run_study(config, copy)


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_folds_test_every_image_once(tmp_path, phantoms):
    config = make_study(
        phantoms, seeds=(0,), **{"study.arms": ("fast",), "study.folds": 3, "data.copies": 1}
    )
    study = run_study(config, tmp_path)
    runs = study["arms"]["fast"]["runs"]
    assert [run["fold"] for run in runs] == [0, 1, 2]
    assert [run["workdir"] for run in runs] == [f"fast/seed0_fold{fold}" for fold in range(3)]
    summary = study["arms"]["fast"]["parts"]["test"]["images"]
    assert np.sum(summary["confusion"]) == 30
    assert len(summary["scores"]["accuracy"]["values"]) == 3
    rows = Predictions.read_csv(tmp_path / "out_of_fold_fast_seed0.csv")
    assert sorted(rows.image) == sorted(
        path.relative_to(phantoms).as_posix() for path in phantoms.glob("*/*).png")
    )
    hits = np.trace(np.array(summary["confusion"]))
    assert (rows.predicted == rows.label).sum() == hits
    page = Page((tmp_path / "study.html").read_text())
    assert "Each of the 3 folds is tested on once a seed" in page.text


@pytest.mark.usefixtures("tiny_model", "undrawn")
def test_protocols_side_by_side(tmp_path, phantoms):
    config = make_study(phantoms, seeds=(0,), **{"data.copies": 3})
    with config.unlocked():
        config.study.arms = ("leaky", "clean")
        config.study.changes = {arm: {"data": {"protocol": arm}} for arm in config.study.arms}
        config.study.published = {}
    study = run_study(config, tmp_path)
    assert study["protocols"] == {"leaky": "leaky", "clean": "clean"}
    [pair] = [pair for pair in study["pairs"] if pair["part"] == "test"]
    assert (pair["splits"], pair["mcnemar"]) == (0, None)
    means = [
        study["arms"][arm]["parts"]["test"]["images"]["scores"]["accuracy"]["mean"]
        for arm in ("leaky", "clean")
    ]
    gap = pair["difference"]["accuracy"]
    assert gap["mean"] == pytest.approx(means[0] - means[1])
    assert gap["low"] <= gap["mean"] <= gap["high"]
    page = Page((tmp_path / "study.html").read_text())
    assert "leaky of leaky, clean of clean" in page.text
    text = (tmp_path / "study.md").read_text()
    assert "leaky − clean" in text
    assert re.search(r"^\* leaky: \d+ of \d+ test images \(\d+ %\) have a near-copy", text, re.M)
    assert "* clean: 0 of " in text
    assert "column “paper”" not in text
    assert "The paper accuracy" not in page.text
    results = json.loads((tmp_path / "leaky/seed0/results.json").read_text())
    leaked = results["leakage"]["test"]
    assert leaked["near_copy_in_training"] > 0.8 * leaked["images"]
    report = Page((tmp_path / "leaky/seed0/report.html").read_text())
    assert f"{leaked['near_copy_in_training']} of {leaked['images']} test images" in report.text


def run(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxbusi.study", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=600,
    )


def test_the_command_prints_the_tables_and_says_that_runs_failed(tmp_path, monkeypatch, capsys):
    (tmp_path / "study.md").write_text("| model | runs |\n")
    runs = [{"workdir": "slow/seed0", "error": "no"}, {"workdir": "slow/seed1", "error": None}]
    monkeypatch.setattr(campaign, "run_study", lambda *_: {"arms": {"slow": {"runs": runs}}})
    for flag in ("CONFIG", "WORKDIR"):
        monkeypatch.setattr(command, flag, SimpleNamespace(value=str(tmp_path)))
    monkeypatch.setattr(command, "_address", lambda: None)
    monkeypatch.setattr(study_command, "_PARALLEL", SimpleNamespace(value=1))
    with pytest.raises(SystemExit) as ended:
        study_command.main(["study"])
    assert ended.value.code == 1
    printed = capsys.readouterr()
    assert printed.out == "| model | runs |\n\n"
    assert "jaxbusi: 1 run(s) failed (slow/seed0); failure.txt" in printed.err


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--workdir=x"], "--config is missing; name a file, for instance --config configs/table4"),
        (
            ["--config=configs/table4.py", "--workdir=x", "--config.study.changes.ViT.optim.l2=1"],
            "optim is no setting where a --config flag names it",
        ),
        (["--config=configs/fusion.py", "--workdir=x"], "give it to python -m jaxbusi.main"),
    ],
)
def test_wrong_flags(arguments, message):
    result = run(*arguments)
    assert result.returncode == 2
    assert message in result.stderr.splitlines()[-1]
    assert "Traceback" not in result.stderr


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"study.arms": ("slow", "quick")}, r"names 'quick'; config.study.changes has fast, slow"),
        ({"study.arms": ()}, r"config.study.arms=\(\) must be at least one"),
        ({"study.seeds": (1, 1)}, r"config.study.seeds=\(1, 1\) must be at least one, none"),
        ({"study.seeds": (-1,)}, r"arm slow: config.seed=-1 must be in"),
        ({"optim.l2": -1.0}, r"arm slow: config.optim.l2=-1.0 must be 0 or more"),
    ],
)
def test_bad_plans_are_refused(tmp_path, change, message):
    with pytest.raises(UserError, match=message):
        Plan.from_config(make_study("set", **change), tmp_path)


def test_names_that_make_no_folder_and_scores_that_are_none(tmp_path):
    config = make_study("set").to_dict()
    config["study"]["arms"] = ("../up",)
    config["study"]["changes"] = {"../up": {}}
    with pytest.raises(UserError, match=r"'\.\./up' becomes the name of a folder"):
        Plan.from_config(config, tmp_path)
    config = make_study("set").to_dict()
    config["study"]["published"] = {"fast": {"kappa": 1}}
    with pytest.raises(UserError, match=r"published\.fast holds kappa"):
        Plan.from_config(config, tmp_path)
    for change, message in (
        ({"optim": {"rate": 1}}, r"arm fast: unknown setting config\.optim\.rate"),
        ({"model": 3}, r"arm fast: config\.model is 3; it must hold settings"),
        ({"model": {"branches": None}}, r"arm fast: config\.model\.branches=None must be"),
        ({"weights": "a"}, r"arm fast: config\.weights is 'a'"),
        ({"seed": 3}, r"config\.study\.changes\.fast\.seed would be lost"),
        (3, r"config\.study\.changes\.fast must hold settings by name"),
    ):
        config = make_study("set").to_dict()
        config["study"]["changes"]["fast"] = change
        with pytest.raises(UserError, match=message):
            Plan.from_config(config, tmp_path)
    for published, message in (
        ({"fast": 0.9}, r"published\.fast holds 0\.9; it may hold"),
        ({"fast": {"accuracy": "93 %"}}, r"published\.fast\.accuracy='93 %' must be a share"),
        ({"fast": {"accuracy": 93.2}}, r"published\.fast\.accuracy=93\.2 must be a share"),
        ({"quick": {"accuracy": 0.9}}, r"published\.quick is of no arm"),
    ):
        config = make_study("set").to_dict()
        config["study"]["published"] = published
        with pytest.raises(UserError, match=message):
            Plan.from_config(config, tmp_path)


@pytest.mark.parametrize("config", [table4, table4_dinov2])
def test_table4_is_the_papers_comparison(config, tmp_path):
    config = config.get_config()
    config.weights.resnet18, config.weights.vit = "resnet18.pth", "vit.safetensors"
    plan = Plan.from_config(config, tmp_path)
    assert plan.study.arms == ("GoogLeNet", "ResNet18", "ViT", "Fusion")
    assert len(plan.runs) == 20
    arms = {run.arm: run.settings for run in plan.runs}
    branches = {arm: settings.model.branches for arm, settings in arms.items()}
    assert branches == {
        "GoogLeNet": ("googlenet",),
        "ResNet18": ("resnet18",),
        "ViT": ("vit",),
        "Fusion": ("resnet18", "vit"),
    }
    assert arms["Fusion"].model.hidden == (512, 128)
    assert arms["ResNet18"].model.hidden == ()
    # An arm takes the weights of the branches that it has.
    assert (arms["ResNet18"].weights.resnet18, arms["ResNet18"].weights.vit) == ("resnet18.pth", "")
    assert arms["Fusion"].weights.vit == "vit.safetensors"
    published = {arm: row.get("accuracy") for arm, row in plan.study.published.items()}
    assert published == {"GoogLeNet": 0.846, "ResNet18": 0.881, "Fusion": 0.932}


def test_protocols_are_compared_on_one_model(tmp_path):
    plan = Plan.from_config(protocols.get_config(), tmp_path)
    assert {run.fold for run in plan.runs} == set(range(5))
    assert {(run.arm, run.settings.data.protocol) for run in plan.runs} == {
        ("leaky", "leaky"),
        ("paper", "paper"),
        ("clean", "clean"),
    }
    models = {run.settings.model for run in plan.runs}
    assert len(models) == 1


def predictions(names, label, predicted):
    rows = np.full((len(names), 3), 0.1) + 0.7 * np.eye(3)[predicted]
    return Predictions(list(names), np.zeros(len(names), int), np.array(label), rows)


def test_the_mean_of_one_run_is_that_run():
    rng = np.random.default_rng(0)
    label = np.repeat([0, 1, 2], 20)
    one = predictions([str(row) for row in range(60)], label, rng.integers(0, 3, 60))
    assert intervals.bootstrap_mean([one]) == intervals.bootstrap(one)


def test_images_that_several_runs_were_tested_on_move_together():
    rng = np.random.default_rng(1)
    label = np.repeat([0, 1, 2], 40)
    predicted = np.where(rng.random(120) < 0.7, label, (label + 1) % 3)
    names = [str(row) for row in range(120)]
    one = predictions(names, label, predicted)
    other = predictions([f"x{name}" for name in names], label, predicted)
    single = intervals.bootstrap(one)["accuracy"]
    same = intervals.bootstrap_mean([one, one])["accuracy"]
    apart = intervals.bootstrap_mean([one, other])["accuracy"]
    assert same.high - same.low == pytest.approx(single.high - single.low)
    ratio = (apart.high - apart.low) / (single.high - single.low)
    assert ratio == pytest.approx(1 / np.sqrt(2), rel=0.1)


def test_curves_of_folds_of_different_sizes_are_one_line():
    """190 or 191 steps of which 47.5 or 47.75 are an epoch; the second run ended early."""
    runs = [
        [
            {"part": "test", "epoch": step / per_epoch, "loss": value, "accuracy": value}
            for step, value in zip(steps, values, strict=True)
        ]
        for steps, per_epoch, values in (
            ((48, 95, 143), 47.5, (0.9, 0.7, None)),
            ((48, 96), 47.75, (0.7, 0.5)),
        )
    ]
    epochs, values = study_figures._table(runs, "test", "loss")
    assert epochs == pytest.approx([(48 / 47.5 + 48 / 47.75) / 2, (2 + 96 / 47.75) / 2])
    np.testing.assert_allclose(values, [[0.9, 0.7], [0.7, 0.5]])


def test_a_resample_that_leaves_a_run_without_a_class_is_left_out():
    label = [0, 0, 1, 1, 2, 2]
    one = predictions("abcdef", label, [0, 1, 1, 1, 2, 0])
    other = predictions("abghij", label, [0, 0, 1, 0, 2, 2])
    found = intervals.bootstrap_mean([one, other], resamples=500)
    assert found["recall"].value == pytest.approx((2 / 3 + 5 / 6) / 2)
    assert found["recall"].low < found["recall"].value < found["recall"].high
