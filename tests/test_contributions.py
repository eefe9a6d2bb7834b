"""What the branches contribute: exact, of a run as it predicts, and beside retrained arms."""

import json
import subprocess
import sys

import numpy as np
import pytest

from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.explain import contributions, means
from jaxbusi.explain.averages import mean_over, ratio_intervals
from jaxbusi.explain.explanation import explain
from jaxbusi.train import train_and_evaluate
from tests.runs import make_config
from tests.tiny import tiny_fusion


def value(**worth):
    """Values of coalitions by their branches' letters, as arrays of one element."""
    return {frozenset(name.strip("_")): np.array([number]) for name, number in worth.items()}


def test_two_branches_by_hand():
    found = contributions.shapley_values(value(_=0.2, a=0.5, b=0.3, ab=0.9))
    # ½[v(a) - v()] + ½[v(ab) - v(b)], and the same for b
    np.testing.assert_allclose(found["a"], 0.5 * 0.3 + 0.5 * 0.6)
    np.testing.assert_allclose(found["b"], 0.5 * 0.1 + 0.5 * 0.4)


def test_three_branches_over_all_their_orders():
    """The glove game: a and b hold left gloves, c the right one; a pair is worth 1."""
    worth = value(_=0.0, a=0.0, b=0.0, c=0.0, ab=0.0, ac=1.0, bc=1.0, abc=1.0)
    found = contributions.shapley_values(worth)
    assert {name: phi.item() for name, phi in found.items()} == pytest.approx(
        {"a": 1 / 6, "b": 1 / 6, "c": 2 / 3}
    )


def test_a_single_branch_contributes_everything():
    found = contributions.shapley_values(value(_=0.3, a=0.9))
    np.testing.assert_allclose(found["a"], 0.6)


def test_a_branch_that_the_head_does_not_read_contributes_nothing():
    rng = np.random.default_rng(0)
    features = {"read": rng.normal(size=(5, 2)), "unread": rng.normal(size=(5, 4))}
    averages = {name: rows.mean(0) for name, rows in features.items()}

    def head(given):
        odds = np.exp(given["read"] @ np.ones((2, 3)) * np.arange(3))
        return odds / odds.sum(1, keepdims=True)

    values = contributions.coalition_values(head, features, averages)
    found = contributions.shapley_values(values)
    assert np.abs(found["unread"]).max() == 0
    np.testing.assert_allclose(
        found["read"], head(features) - head({"read": np.tile(averages["read"], (5, 1))})
    )


def test_sums_over_images_by_hand():
    both, a, b, none = (frozenset(x) for x in ("ab", "a", "b", ""))
    start = np.full((2, 3), 1 / 3)
    end = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    # a moves all of it, b nothing: v does not depend on b.
    values = {none: start, a: end, b: start, both: end}
    found = contributions.summarize(values, np.array([0, 2]), ["x", "y"], seed=0)
    assert found["shares"]["all"]["a"]["value"] == pytest.approx(1)
    assert found["shares"]["benign"]["b"]["value"] == pytest.approx(0)
    assert found["moves"]["benign"]["a"]["value"] == pytest.approx(0.8 - 1 / 3)
    assert found["moves"]["normal"]["a"]["value"] == pytest.approx(0.1 - 1 / 3)
    assert found["moves"]["all"]["a"]["value"] == pytest.approx(0.9 / 2 - 1 / 3)
    assert found["moves"]["malignant"]["a"]["value"] is None  # no such image
    assert found["alone"]["all"]["a"]["accuracy"]["value"] == 0.5
    assert found["alone"]["all"]["a+b"]["probability"]["value"] == pytest.approx(0.45)
    assert found["counts"] == {"all": 2, "benign": 1, "malignant": 0, "normal": 1}
    unknown = contributions.summarize(values, None, ["x", "y"], seed=0)
    assert unknown["towards"] == "answer"
    assert unknown["alone"] is None
    assert unknown["moves"]["malignant"]["a"]["value"] == pytest.approx(0.7 - 1 / 3)


def test_images_of_one_unit_are_one_piece_of_evidence():
    values = np.tile([0.0, 1.0], 20)
    label, apart = np.zeros(40, int), [str(row) for row in range(40)]
    together = [str(row // 20) for row in range(40)]
    wide, narrow = (
        ratio_intervals({"x": mean_over(values)}, label, units, seed=0)["x"]
        for units in (np.repeat(["a", "b"], 20)[np.argsort(np.argsort(values))].tolist(), apart)
    )
    assert wide["value"] == narrow["value"] == 0.5
    assert (wide["low"], wide["high"]) == (0, 1)
    assert 0.3 < narrow["low"] < narrow["high"] < 0.7
    halves = ratio_intervals({"x": mean_over(values)}, label, together, seed=0)["x"]
    assert (halves["low"], halves["high"]) == (0.5, 0.5)  # both units are alike
    sure = ratio_intervals({"x": mean_over(values**0)}, label, apart, seed=0, of_hits=["x"])["x"]
    assert sure["exact"]
    assert sure["low"] == pytest.approx(0.025 ** (1 / 40))


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantoms):
    workdir = tmp_path_factory.mktemp("run")
    with tiny_fusion():
        train_and_evaluate(make_config(phantoms, num_epochs=1.0), workdir)
    return workdir


@pytest.fixture
def small():
    with tiny_fusion():
        yield


@pytest.mark.usefixtures("small")
def test_contributions_sum_to_the_predictions_of_the_run(run, monkeypatch):
    document, _ = explain(run)
    assert document == json.loads((run / "explain" / "explain.json").read_text())
    rows = Predictions.read_csv(run / "predictions_test.csv").originals()
    predicted = dict(zip(rows.image, rows.probabilities, strict=True))
    assert {image["image"] for image in document["images"]} == set(predicted)
    for image in document["images"]:
        summed = sum(np.array(phi) for phi in image["contributions"].values())
        difference = predicted[image["image"]] - np.array(image["baseline"])
        np.testing.assert_allclose(summed, difference, atol=1e-5)
        assert image["answer"] == CLASSES[predicted[image["image"]].argmax()]
    alone = document["contributions"]["alone"]["all"]
    accuracy = json.loads((run / "results.json").read_text())["parts"]["test"]["images"]["accuracy"]
    assert alone["resnet18+vit"]["accuracy"]["value"] == pytest.approx(accuracy["value"])

    # Files are explained from the means that were kept, without the training images.
    monkeypatch.setattr(means, "_means", None)
    folder = next(run.glob("split.csv"))
    assert folder.exists()
    [image] = [image for image in document["images"] if image["image"] == rows.image[0]]
    root = json.loads((run / "config.json").read_text())["config"]["data"]["root"]
    again, _ = explain(run, [f"{root}/{rows.image[0]}"])
    assert (run / "explain" / "inputs" / "explain.json").exists()
    assert again["images"][0]["truth"] is None
    np.testing.assert_allclose(
        again["images"][0]["contributions"]["vit"], image["contributions"]["vit"], atol=1e-6
    )


@pytest.mark.usefixtures("small")
def test_kept_means_are_checked(run):
    path = run / "explain" / "training_means.npz"
    good = explain(run)[0]["images"]
    before = path.read_bytes()
    path.write_bytes(before[:100])
    assert explain(run)[0]["images"] == good
    assert path.read_bytes() == before


def write_arm(run, folder, branches, split=None):
    """A run of fewer branches on the same split, that is right about everything."""
    folder.mkdir()
    config = json.loads((run / "config.json").read_text())
    config["config"]["model"]["branches"] = list(branches)
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "split.csv").write_bytes(split or (run / "split.csv").read_bytes())
    rows = Predictions.read_csv(run / "predictions_test.csv")
    right = Predictions(rows.image, rows.copy, rows.label, np.eye(3)[rows.label])
    right.write_csv(folder / "predictions_test.csv")
    return folder


@pytest.mark.usefixtures("small")
def test_retrained_arms_beside(run, tmp_path):
    arms = [write_arm(run, tmp_path / name, [name]) for name in ("resnet18", "vit")]
    document, _ = explain(run, arms=arms)
    found = document["arms"]["alone"]["all"]
    assert found["vit"]["accuracy"]["value"] == found["vit"]["probability"]["value"] == 1
    assert found["none"]["accuracy"]["value"] == pytest.approx(3 / 6)  # benign, the commonest
    together = document["contributions"]["alone"]["all"]["resnet18+vit"]
    assert found["resnet18+vit"] == together
    moves = document["arms"]["moves"]["all"]
    sums = sum(moves[name]["value"] for name in ("resnet18", "vit"))
    start = found["none"]["probability"]["value"]
    assert sums == pytest.approx(together["probability"]["value"] - start)
    with pytest.raises(UserError, match="no run with vit is given"):
        explain(run, arms=arms[:1])
    with pytest.raises(UserError, match="was trained with resnet18; give one run for each"):
        explain(run, arms=[*arms, arms[0]])
    split = (run / "split.csv").read_bytes().replace(b",train,", b",test,", 1)
    other = write_arm(run, tmp_path / "other", ["vit"], split)
    with pytest.raises(UserError, match="divides the images otherwise"):
        explain(run, arms=[arms[0], other])
    with pytest.raises(UserError, match="leave INPUT out"):
        explain(run, ["x.png"], arms=arms)


def test_bad_use_is_one_line_and_status_2(tmp_path):
    result = subprocess.run(
        [sys.executable, "-m", "jaxbusi.explain", "--workdir", str(tmp_path / "none")],
        capture_output=True,
        text=True,
    )
    assert result.returncode == 2
    assert "holds no run" in result.stderr.splitlines()[-1]
    assert not (tmp_path / "none").exists()
