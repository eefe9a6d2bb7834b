"""The real trainer on generated images and a tiny model: every file, resuming, bad input."""

import csv
import json
import os
import signal
from pathlib import Path

import jax
import numpy as np
import pytest

from jaxbusi import loop
from jaxbusi.checkpoints import Checkpoints
from jaxbusi.errors import UserError
from jaxbusi.evaluation import calibration, figures
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.logs import read_history
from jaxbusi.stopping import StopSignals
from jaxbusi.train import Stopped, evaluate, train_and_evaluate
from tests.runs import make_config, read, stop_after

pytestmark = pytest.mark.usefixtures("tiny_model", "undrawn")


def final_state(workdir):
    """The arrays of the last checkpoint, by file content."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    step = checkpoints.latest_step()
    restored = checkpoints._manager.restore(step)
    checkpoints.close()
    return step, jax.tree.leaves_with_path(jax.device_get(dict(restored.items())))


def test_a_run_leaves_every_file_of_the_contract(tmp_path, phantoms, monkeypatch, undrawn):
    monkeypatch.setattr(figures, "write_all", undrawn)
    config = make_config(phantoms, **{"data.external": str(phantoms)})
    results = train_and_evaluate(config, tmp_path)
    for name in ("config.json", "split.csv", "metrics.jsonl", "results.json", "report.html"):
        assert (tmp_path / name).stat().st_size > 0, name
    assert list((tmp_path / "tensorboard").glob("events.*"))
    assert list((tmp_path / "checkpoints").iterdir())
    for name in ("curves", "batch", "confusion_test_images", "roc_test", "mistakes_test"):
        assert (tmp_path / "figures" / f"{name}.png").stat().st_size > 1000

    stored = json.loads((tmp_path / "config.json").read_text())
    assert stored["config"]["batch_size"] == 8
    assert stored["versions"]["jax"] == jax.__version__
    assert stored["devices"]["count"] == len(jax.devices())

    with (tmp_path / "split.csv").open() as file:
        rows = list(csv.DictReader(file))
    parts = [row["part"] for row in rows]
    assert (parts.count("train"), parts.count("test"), parts.count("external")) == (24, 6, 30)
    assert list(rows[0]) == ["image", "sha256", "label", "group", "part", "copies"]

    with (tmp_path / "predictions_test.csv").open() as file:
        predictions = list(csv.DictReader(file))
    assert len(predictions) == 12
    assert list(predictions[0]) == ["image", "copy", "label", "benign", "malignant", "normal"]

    assert json.loads((tmp_path / "results.json").read_text()) == results
    assert list(results["parts"]) == ["test", "external"]
    test = results["parts"]["test"]
    assert (test["images"]["count"], test["copies"]["count"]) == (6, 12)
    assert test["tta"]["count"] == 6
    assert np.sum(test["images"]["confusion"]) == 6
    assert list(test["baselines"]) == ["majority", "image_size", "pixel_neighbour"]
    assert 0 <= test["baselines"]["pixel_neighbour"]["accuracy"]["value"] <= 1
    # The external folder is the training set: a neighbour is the image itself.
    external = results["parts"]["external"]
    assert external["baselines"]["pixel_neighbour"]["accuracy"]["value"] >= 0.8
    assert results["leakage"]["external"] == {"near_copy_in_training": 24, "images": 30}
    assert "What the task gives away" in (tmp_path / "report.html").read_text()
    for name in ("accuracy", "precision", "recall", "f1", "auc"):
        score = test["copies"][name]
        assert score["low"] <= score["value"] <= score["high"]


def test_the_learning_curves_have_a_point_an_epoch(tmp_path, phantoms):
    train_and_evaluate(make_config(phantoms), tmp_path)
    history = read_history(tmp_path)
    assert [(line["step"], line["part"]) for line in history] == [
        (6, "train"),
        (6, "test"),
        (12, "train"),
        (12, "test"),
    ]
    for line in history:
        assert {"step", "epoch", "part", "loss", "accuracy", "precision", "recall"} <= set(line)
    assert [line["epoch"] for line in history] == [1.0, 1.0, 2.0, 2.0]


@pytest.mark.parametrize("stop", [2, 5, 8])
def test_a_stopped_run_goes_on_bit_for_bit(tmp_path, phantoms, monkeypatch, stop):
    config = make_config(phantoms, ema_decay=0.9, accumulate=2)
    whole, parted = tmp_path / "whole", tmp_path / "parted"
    results = train_and_evaluate(config, whole)
    undo = stop_after(monkeypatch, stop)
    with pytest.raises(Stopped, match="the same command goes on") as stopped:
        train_and_evaluate(config, parted)
    assert stopped.value.status == 143
    undo()
    assert train_and_evaluate(config, parted) == results
    assert (whole / "predictions_test.csv").read_bytes() == (
        parted / "predictions_test.csv"
    ).read_bytes()
    step, wanted = final_state(whole)
    other_step, got = final_state(parted)
    assert (step, other_step) == (12, 12)
    for (path, one), (_, other) in zip(wanted, got, strict=True):
        np.testing.assert_array_equal(one, other, err_msg=jax.tree_util.keystr(path))
    assert read(read_history(whole)) == read(read_history(parted))


def test_sigterm_may_come_again_and_the_second_ctrl_c_ends_the_process():
    signals = StopSignals()
    with signals.watch():
        os.kill(os.getpid(), signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
        os.kill(os.getpid(), signal.SIGTERM)
        assert signals.received == signal.SIGTERM
        os.kill(os.getpid(), signal.SIGINT)
        assert signal.getsignal(signal.SIGINT) == signal.SIG_DFL
    assert signal.getsignal(signal.SIGINT) == signal.default_int_handler


def test_a_finished_run_is_only_evaluated_again(tmp_path, phantoms):
    config = make_config(phantoms)
    first = train_and_evaluate(config, tmp_path)
    before = (tmp_path / "metrics.jsonl").read_bytes()
    assert train_and_evaluate(config, tmp_path) == first
    assert (tmp_path / "metrics.jsonl").read_bytes() == before


def test_evaluate_repeats_the_results_without_training(tmp_path, phantoms):
    first = train_and_evaluate(make_config(phantoms), tmp_path)
    (tmp_path / "results.json").unlink()
    (tmp_path / "report.html").unlink()
    assert evaluate(None, tmp_path) == first
    assert (tmp_path / "report.html").exists()


def test_evaluate_needs_a_checkpoint(tmp_path, phantoms):
    train_and_evaluate(make_config(phantoms), tmp_path)
    for path in (tmp_path / "checkpoints").iterdir():
        path.rename(tmp_path / path.name)
    with pytest.raises(UserError, match="holds no latest checkpoint; train first"):
        evaluate(None, tmp_path)


def test_training_ends_when_the_validation_loss_falls_no_more(tmp_path, phantoms, monkeypatch):
    """Also if it was stopped in between, and given again when it is finished."""
    config = make_config(
        phantoms,
        **{
            "num_epochs": 40.0,
            "patience": 2,
            "optim.learning_rate": 0.05,
            "data.validation_fraction": 0.25,
            "checkpoint.evaluate": "best",
        },
    )
    results = train_and_evaluate(config, tmp_path / "whole")
    lines = read_history(tmp_path / "whole")
    losses = [line["loss"] for line in lines if line["part"] == "validation"]
    best = losses.index(min(losses))
    assert len(losses) == best + 1 + 2 < 40
    for end in range(1, len(losses)):  # not earlier
        assert end - 1 - losses[:end].index(min(losses[:end])) < 2
    steps = [line["step"] for line in lines if line["part"] == "validation"]
    assert results["checkpoint"]["step"] == steps[best]

    undo = stop_after(monkeypatch, steps[best] + 1)
    with pytest.raises(Stopped):
        train_and_evaluate(config, tmp_path / "parted")
    undo()
    assert train_and_evaluate(config, tmp_path / "parted") == results
    assert read_history(tmp_path / "parted")[-1]["step"] == steps[-1]
    monkeypatch.setattr(loop.Loop, "_batches", lambda *_: pytest.fail("trained on"))
    assert train_and_evaluate(config, tmp_path / "parted") == results


def test_the_best_checkpoint_is_chosen_on_the_validation_part(tmp_path, phantoms):
    config = make_config(
        phantoms, **{"data.validation_fraction": 0.25, "checkpoint.evaluate": "best", "seed": 3}
    )
    results = train_and_evaluate(config, tmp_path)
    losses = {
        line["step"]: line["loss"]
        for line in read_history(tmp_path)
        if line["part"] == "validation"
    }
    assert results["checkpoint"] == {"step": min(losses, key=losses.get), "chosen": "best"}
    assert list(results["parts"]) == ["test", "validation"]
    # So is the temperature, and it is used on the other part.
    rows = Predictions.read_csv(tmp_path / "predictions_validation.csv").originals()
    fitted = results["calibration"]
    assert (fitted["fitted_on"], fitted["images"]) == ("validation", len(rows))
    assert fitted["temperature"] == calibration.fit_temperature(rows)
    assert results["parts"]["test"]["calibration"]["scaled"]["brier"]["value"] is not None
    assert results["parts"]["validation"]["calibration"]["scaled"] is None


def test_init_from_takes_weights_and_a_fresh_optimizer(tmp_path, phantoms, monkeypatch):
    train_and_evaluate(make_config(phantoms), tmp_path / "first")
    _, wanted = final_state(tmp_path / "first")
    seen = []
    monkeypatch.setattr(loop.Loop, "train", lambda self, state, *_: seen.append(state) or state)
    config = make_config(phantoms, init_from=str(tmp_path / "first"), seed=5)
    with pytest.raises(UserError, match="train first"):  # nothing was trained, nothing saved
        train_and_evaluate(config, tmp_path / "second")
    assert int(seen[0].step) == 0
    assert all(np.all(leaf == 0) for leaf in jax.tree.leaves(jax.device_get(seen[0].opt_state)))
    weights = {
        jax.tree_util.keystr(path[1:]): leaf for path, leaf in wanted if path[0].key == "weights"
    }
    for path, leaf in jax.tree.leaves_with_path(jax.device_get(seen[0].variables())):
        np.testing.assert_array_equal(leaf, weights[jax.tree_util.keystr(path)])


def test_init_from_a_folder_without_a_run(tmp_path, phantoms):
    config = make_config(phantoms, init_from=str(tmp_path / "none"))
    with pytest.raises(UserError, match=r"config\.init_from=.*none is no workdir"):
        train_and_evaluate(config, tmp_path / "run")


def test_another_config_in_the_same_workdir_is_refused_by_what_differs(tmp_path, phantoms):
    train_and_evaluate(make_config(phantoms), tmp_path)
    config = make_config(phantoms, seed=1, **{"optim.l2": 0.1})
    with pytest.raises(UserError, match="other settings") as error:
        train_and_evaluate(config, tmp_path)
    assert "config.seed: 0, now 1" in str(error.value)
    assert "config.optim.l2: 1e-05, now 0.1" in str(error.value)
    train_and_evaluate(make_config(phantoms, **{"data.cache_gib": 0.0}), tmp_path)  # no number


def test_a_batch_that_the_devices_cannot_share(tmp_path, phantoms):
    with pytest.raises(UserError, match=r"batch_size=7 is not divisible by the 2 devices; 8 is"):
        train_and_evaluate(make_config(phantoms, batch_size=7), tmp_path)
    with pytest.raises(UserError, match=r"2 devices times config.accumulate=4; 16 is"):
        train_and_evaluate(make_config(phantoms, batch_size=12, accumulate=4), tmp_path)


def test_a_loss_that_is_not_finite_names_step_and_images(tmp_path, phantoms):
    config = make_config(phantoms, **{"optim.learning_rate": 1e38})
    with pytest.raises(UserError, match=r"the loss of step [23] is (nan|inf)") as error:
        train_and_evaluate(config, tmp_path)
    assert ".png" in str(error.value)
    assert "its checkpoints are intact" in str(error.value)
    assert "\n" not in str(error.value)


def damaged_copy(source: Path, destination: Path) -> Path:
    """A copy of the set in which one image is cut short."""
    for path in source.rglob("*.png"):
        target = destination / path.relative_to(source)
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(path.read_bytes())
    victim = destination / "benign" / "benign (3).png"
    victim.write_bytes(victim.read_bytes()[:200])
    return destination


def test_a_truncated_image_is_named_or_skipped_and_listed(tmp_path, phantoms):
    root = damaged_copy(phantoms, tmp_path / "set")
    with pytest.raises(UserError, match=r"benign/benign \(3\)\.png.*config\.data\.on_bad_image"):
        train_and_evaluate(make_config(root), tmp_path / "error")
    train_and_evaluate(make_config(root, **{"data.on_bad_image": "skip"}), tmp_path / "skip")
    assert "benign (3).png" not in (tmp_path / "skip" / "split.csv").read_text()
    assert "benign (3).png" in (tmp_path / "skip" / "report.html").read_text()


def test_a_given_split_is_reused_and_a_changed_file_refused(tmp_path, phantoms):
    train_and_evaluate(make_config(phantoms, num_epochs=1.0), tmp_path / "first")
    split = tmp_path / "first" / "split.csv"
    config = make_config(phantoms, seed=9, num_epochs=1.0, **{"data.split": str(split)})
    train_and_evaluate(config, tmp_path / "second")
    assert (tmp_path / "second" / "split.csv").read_bytes() == split.read_bytes()

    root = damaged_copy(phantoms, tmp_path / "set")
    (root / "benign" / "benign (3).png").write_bytes(
        (phantoms / "benign" / "benign (4).png").read_bytes()
    )
    config = make_config(root, **{"data.split": str(split)})
    with pytest.raises(UserError, match=r"benign \(3\)\.png.*SHA-256 differs"):
        train_and_evaluate(config, tmp_path / "third")


def test_results_do_not_depend_on_the_cache(tmp_path, phantoms):
    cached = train_and_evaluate(make_config(phantoms, num_epochs=1.0), tmp_path / "a")
    config = make_config(phantoms, num_epochs=1.0, **{"data.cache_gib": 0.0})
    assert train_and_evaluate(config, tmp_path / "b") == cached
