"""A second hospital as a table without normal images, through the real trainer."""

import csv
import json
import logging

import numpy as np
import pytest

from jaxbusi import loop
from jaxbusi.campaign import run_study
from jaxbusi.data.phantoms import write_phantoms
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.logs import read_history
from jaxbusi.train import evaluate, train_and_evaluate
from tests.runs import make_config
from tests.test_report import Page
from tests.test_study import make_study

pytestmark = pytest.mark.usefixtures("tiny_model", "undrawn")


@pytest.fixture(scope="module")
def hospital(tmp_path_factory, phantoms):
    """labels.csv: twelve images without normals, one of them an image of the first set."""
    folder = tmp_path_factory.mktemp("hospital")
    write_phantoms(folder, count=18, seed=3, size=64)
    data = (phantoms / "benign" / "benign (1).png").read_bytes()
    (folder / "benign" / "copy.png").write_bytes(data)
    names = sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*.png"))
    lines = [
        f"{name},{name.partition('/')[0].upper()},{number // 2}"
        for number, name in enumerate(names)
        if not name.startswith("normal") and "_mask" not in name
    ]
    path = folder / "labels.csv"
    path.write_text("\n".join(["image,label,patient", *lines]) + "\n")
    return path


def read_probabilities(path):
    with path.open() as file:
        rows = [row for row in csv.DictReader(file) if row["copy"] == "0"]
    label = np.array([CLASSES.index(row["label"]) for row in rows])
    return label, np.array([[float(row[name]) for name in CLASSES] for row in rows])


def test_a_binary_table_through_training_and_evaluation(
    phantoms, hospital, tmp_path, monkeypatch, caplog
):
    known = []
    train = loop.Loop.train

    def looking(self, *arguments):
        known.append(json.loads((tmp_path / "results.json").read_text()))
        assert "external images (" in caplog.text
        return train(self, *arguments)

    monkeypatch.setattr(loop.Loop, "train", looking)
    config = make_config(phantoms, **{"data.external": str(hospital)})
    with caplog.at_level(logging.INFO):
        results = train_and_evaluate(config, tmp_path)
    assert list(known[0]) == ["protocol", "leakage", "parts"]
    assert known[0]["leakage"] == results["leakage"]
    assert known[0]["parts"] == {}

    part = results["parts"]["external"]
    label, raw = read_probabilities(tmp_path / "predictions_external.csv")
    assert (raw[:, 2] > 0).all()  # the file holds what the model said
    np.testing.assert_allclose(raw.sum(axis=1), 1)
    right = raw[:, :2].argmax(axis=1) == label
    assert part["images"]["accuracy"]["value"] == pytest.approx(right.mean())
    assert (part["classes"], part["renormalised"]) == (["benign", "malignant"], True)
    assert part["called_absent"] == int((raw.argmax(axis=1) == 2).sum())
    assert part["images"]["sources"] < part["images"]["count"]  # a patient's images are one unit
    for rule in part["baselines"].values():
        assert 0 <= rule["recall"]["value"] <= 1
    assert results["parts"]["test"]["renormalised"] is False
    assert results["parts"]["test"]["classes"] == list(CLASSES)

    last = [line for line in read_history(tmp_path) if line["part"] == "external"][-1]
    assert last["accuracy"] == pytest.approx(right.mean())
    shares = raw[:, :2] / raw[:, :2].sum(axis=1, keepdims=True)
    loss = -np.log(shares[np.arange(len(label)), label]).mean()
    assert last["loss"] == pytest.approx(loss, rel=1e-4)

    words = (
        f"No normal images are in this part: probabilities are renormalised over benign and "
        f"malignant; {part['called_absent']} of {len(label)} images would have been called normal "
        "otherwise."
    )
    assert f"external: {words}" in caplog.text
    page = Page((tmp_path / "report.html").read_text())
    assert words in page.text
    assert "would have been called normal" not in page.text.replace(words, "")

    (tmp_path / "results.json").unlink()
    assert evaluate(None, tmp_path) == results
    assert read_probabilities(tmp_path / "predictions_external.csv")[1].tolist() == raw.tolist()


def test_clean_refuses_before_anything_is_trained(phantoms, hospital, tmp_path):
    # With this seed the image that both sets hold is in the training part.
    changes = {"data.external": str(hospital), "data.protocol": "clean", "seed": 0}
    with pytest.raises(UserError, match=r"external images have a near-copy.*config.data.external"):
        train_and_evaluate(make_config(phantoms, **changes), tmp_path)
    assert not (tmp_path / "checkpoints").exists()
    assert not (tmp_path / "results.json").exists()


def test_a_study_says_so_and_agrees_with_its_runs(phantoms, hospital, tmp_path):
    config = make_study(phantoms, seeds=(0,), **{"data.external": str(hospital)})
    study = run_study(config, tmp_path)
    for arm in ("slow", "fast"):
        run = json.loads((tmp_path / arm / "seed0" / "results.json").read_text())
        external = study["arms"][arm]["parts"]["external"]
        for kind in ("images", "copies", "tta"):
            assert external[kind]["confusion"] == run["parts"]["external"][kind]["confusion"]
        mean = external["images"]["scores"]["recall"]["mean"]
        assert mean == pytest.approx(run["parts"]["external"]["images"]["recall"]["value"])
    [pair] = [pair for pair in study["pairs"] if pair["part"] == "external"]
    slow, fast = (
        study["arms"][arm]["parts"]["external"]["images"]["scores"]["accuracy"]["mean"]
        for arm in ("slow", "fast")
    )
    assert pair["difference"]["accuracy"]["mean"] == pytest.approx(slow - fast)
    words = "No normal images are in this part: probabilities are renormalised over benign and"
    assert words in Page((tmp_path / "study.html").read_text()).text
    assert words in (tmp_path / "study.md").read_text()
