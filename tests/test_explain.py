"""A whole run explained: its numbers are those of its predictions, and its report says so."""

import functools
import json
from types import SimpleNamespace

import numpy as np
import pytest

from jaxbusi.data.parts import load_parts
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation import explained
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.explain import arms, contributions, subjects
from jaxbusi.explain import training_features as features_file
from jaxbusi.explain.arms import arm_values
from jaxbusi.explain.explanation import explain
from jaxbusi.explain.training_features import training_features
from jaxbusi.train import train_and_evaluate
from jaxbusi.workdir import read_settings
from scripts.fuzz_dicom import encode
from tests.runs import make_config
from tests.test_report import Page
from tests.tiny import tiny_fusion


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantoms):
    """A run of two tiny branches, and what explaining it gave."""
    workdir = tmp_path_factory.mktemp("run")
    with tiny_fusion():
        train_and_evaluate(make_config(phantoms, num_epochs=1.0), workdir)
        document, out = explain(workdir, count=2)
    assert out == workdir / "explain"
    return workdir, document


@pytest.fixture(scope="module")
def rows(run):
    return Predictions.read_csv(run[0] / "predictions_test.csv").originals()


def test_contributions_sum_to_the_predictions_of_the_run(run, rows):
    workdir, document = run
    assert document == json.loads((workdir / "explain" / "explain.json").read_text())
    predicted = dict(zip(rows.image, rows.probabilities, strict=True))
    assert {image["image"] for image in document["images"]} == set(predicted)
    for image in document["images"]:
        summed = sum(np.array(phi) for phi in image["contributions"].values())
        difference = predicted[image["image"]] - np.array(image["baseline"])
        np.testing.assert_allclose(summed, difference, atol=1e-5)
        assert image["answer"] == CLASSES[predicted[image["image"]].argmax()]
    alone = document["contributions"]["alone"]["all"]
    results = json.loads((workdir / "results.json").read_text())
    accuracy = results["parts"]["test"]["images"]["accuracy"]["value"]
    assert alone["resnet18+vit"]["accuracy"]["value"] == pytest.approx(accuracy)


def test_what_is_measured_of_maps_and_occlusions(run):
    _, document = run
    assert set(document["maps"]) == {"grad_cam_resnet18", "rollout", "gradient_attention"}
    normal = sum(image["truth"] == "normal" for image in document["images"])
    lesions = len(document["images"]) - normal
    for level in ("trained", "head", "all"):
        found = document["agreement"][level]["rollout"]
        assert found["all"]["count"] == lesions  # rollout is never 0 everywhere
        assert "normal" not in found
        assert 0 < found["all"]["area"]["value"] < found["all"]["area"]["high"] < 0.5
    assert document["randomised"]["head"]["rollout"]["value"] == pytest.approx(1)
    assert document["randomised"]["all"]["rollout"]["value"] < 0.999
    assert document["occlusion"]["borders"]["all"]["count"] == len(document["images"])
    assert document["occlusion"]["lesion"]["all"]["count"] == lesions
    assert document["occlusion"]["marks"] == {}  # phantoms have none


def test_the_report_has_the_section_and_keeps_it(run):
    workdir, document = run
    for path in (workdir / "report.html", workdir / "explain" / "explain.html"):
        page = Page(path.read_text())
        assert "What the branches contribute" in page.text
        share = document["contributions"]["shares"]["all"]["vit"]["value"]
        assert f"{100 * share:.1f} % (" in page.text
        titles = [picture["title"] for picture in document["pictures"]]
        assert len(titles) == 2
        assert all(title in page.text for title in titles)
    # Written by what evaluation writes with, from what it reads: for this checkpoint alone.
    step = document["checkpoint_step"]
    assert explained.read(workdir, step) is not None
    assert explained.read(workdir, step + 1) is None


@pytest.mark.parametrize("branches", [["googlenet"], ["vit"]])
def test_the_page_speaks_of_the_branches_that_there_are(run, tmp_path, branches):
    workdir, document = run
    sums = document["contributions"]
    of = {kind: {group: dict.fromkeys(branches, found["vit"])
                 for group, found in sums[kind].items()}
          for kind in ("shares", "moves")}  # fmt: skip
    alone = {group: {"none": found["none"], branches[0]: found["vit"]}
             for group, found in sums["alone"].items()}  # fmt: skip
    single = {**document, "branches": branches, "maps": {},
              "contributions": {**sums, **of, "alone": alone}}  # fmt: skip
    explained.write_page(tmp_path / "x.html", single, workdir / "explain")
    text = Page((tmp_path / "x.html").read_text()).text
    assert ("last feature map of GoogLeNet speaks" in text) == (branches == ["googlenet"])
    assert ("rollout" in text.lower()) == (branches == ["vit"])
    assert "ResNet18" not in text


def test_files_are_explained_from_the_means_that_were_kept(run, rows, phantoms, monkeypatch):
    workdir, document = run
    monkeypatch.setattr(features_file, "_look", None)
    before = (workdir / "report.html").read_bytes()
    with tiny_fusion():
        again, out = explain(workdir, [str(phantoms / rows.image[0])], count=1)
    assert out == workdir / "explain" / "inputs"
    assert (out / "explain.html").exists()
    [image] = again["images"]
    assert image["truth"] is None
    assert again["agreement"] == {}
    assert again["contributions"]["towards"] == "answer"
    # One image has no interval, and none of no width.
    assert again["contributions"]["shares"]["all"]["vit"]["low"] is None
    assert "(no interval)" in Page((out / "explain.html").read_text()).text
    [first] = [image for image in document["images"] if image["image"] == rows.image[0]]
    np.testing.assert_allclose(
        image["contributions"]["vit"], first["contributions"]["vit"], atol=1e-6
    )
    assert (workdir / "report.html").read_bytes() == before


def test_where_nothing_can_be_written_no_work_is_done(run, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setattr("jaxbusi.train.load_model", lambda *_: pytest.fail("work was done"))
    with pytest.raises(UserError, match="cannot be written"):
        explain(run[0], out=tmp_path / "file" / "out")


def test_features_are_those_of_the_training_images_and_are_checked(run, tmp_path):
    workdir, _ = run
    settings = read_settings(workdir)
    load = functools.partial(load_parts, settings.data, seed=settings.seed, workdir=workdir)
    looker = SimpleNamespace(
        batch=7, side=16, features=lambda squares: {"mean": squares.mean((1, 2)).astype(np.float32)}
    )
    part = load()["train"]
    views = {part.store.records[row].name: part.store.view(row) for row in part.samples.image}
    label = dict(zip(part.samples.image.tolist(), part.samples.label.tolist(), strict=True))
    assert len(views) == 24  # without their copies
    found = training_features(tmp_path, looker, "weights", load)
    assert set(found.image) == set(views)
    expected = [views[name].mean((0, 1)) for name in found.image]
    np.testing.assert_allclose(found.features["mean"], expected, rtol=1e-5)
    np.testing.assert_allclose(found.means["mean"], np.mean(expected, axis=0), rtol=1e-5)
    assert found.label.tolist() == [label[row] for row in sorted(label)]
    path = tmp_path / "explain" / "training_features.npz"
    good = path.read_bytes()
    never = functools.partial(pytest.fail, "the images were read again")
    again = training_features(tmp_path, looker, "weights", never)
    assert again.image == found.image
    np.testing.assert_array_equal(again.label, found.label)
    np.testing.assert_array_equal(again.features["mean"], found.features["mean"])
    training_features(tmp_path, looker, "others", load)
    assert path.read_bytes() != good
    path.write_bytes(good[:100])
    training_features(tmp_path, looker, "weights", load)
    assert path.read_bytes() == good


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


def test_retrained_arms_beside(run, rows, tmp_path):
    workdir, _ = run
    alone_runs = [write_arm(workdir, tmp_path / name, [name]) for name in ("resnet18", "vit")]
    ask = functools.partial(
        arm_values, workdir=workdir, names=rows.image, together=rows.probabilities
    )
    values = ask(alone_runs)
    found = contributions.summarize(values, rows.label, rows.unit, seed=0)
    alone = found["alone"]["all"]
    assert alone["vit"]["accuracy"]["value"] == alone["vit"]["probability"]["value"] == 1
    lines = (workdir / "split.csv").read_text().splitlines()
    trained = [line.split(",")[2] for line in lines if ",train," in line]
    shares = [trained.count(name) / 24 for name in CLASSES]
    np.testing.assert_allclose(values[frozenset()], np.tile(shares, (len(rows), 1)))
    moves = found["moves"]["all"]
    together = alone["resnet18+vit"]["probability"]["value"]
    assert sum(moves[name]["value"] for name in moves) == pytest.approx(
        together - alone["none"]["probability"]["value"]
    )
    with pytest.raises(UserError, match="no run with vit is given"):
        ask(alone_runs[:1])
    with pytest.raises(UserError, match="was trained with resnet18; give one run for each"):
        ask([*alone_runs, alone_runs[0]])
    split = (workdir / "split.csv").read_bytes().replace(b",train,", b",test,", 1)
    other = write_arm(workdir, tmp_path / "other", ["vit"], split)
    with pytest.raises(UserError, match="divides the images otherwise"):
        ask([alone_runs[0], other])
    with pytest.raises(UserError, match="leave INPUT out"):
        explain(workdir, ["x.png"], arms=alone_runs)


def test_images_in_two_parts_count_in_both(tmp_path):
    """As the protocol `leaky` divides them: the later line does not hide the earlier one."""
    header = "image,sha256,label,group,part,copies\n"
    rows = [("a", "benign", "train"), ("a", "benign", "test"), ("b", "normal", "train")]
    lines = [f"{image},0,{label},,{part},1\n" for image, label, part in rows]
    (tmp_path / "one").mkdir()
    (tmp_path / "one" / "split.csv").write_text("".join([header, *lines]))
    one = arms._split(tmp_path / "one")
    np.testing.assert_allclose(arms._training_shares(one), [0.5, 0, 0.5])
    (tmp_path / "one" / "split.csv").write_text("".join([header, *lines[1:]]))
    assert arms._split(tmp_path / "one") != one


def test_frames_of_a_clip_are_explained_as_one_unit(tmp_path):
    frames = [np.full((6, 8), value, np.uint8) for value in (20, 40)]
    (tmp_path / "clip.dcm").write_bytes(encode([frame.tobytes() for frame in frames], (6, 8)))
    chosen = subjects.of_inputs([str(tmp_path)])
    assert [one.name for one in chosen] == [f"{tmp_path}/clip.dcm#1", f"{tmp_path}/clip.dcm#2"]
    assert [int(one.read().max()) for one in chosen] == [20, 40]
    assert [one.lesion((6, 8)) for one in chosen] == [None, None]
    assert {one.unit for one in chosen} == {f"{tmp_path}/clip.dcm"}


def test_a_report_goes_without_an_explanation_whose_pictures_are_gone(tmp_path, caplog):
    folder = tmp_path / "explain"
    folder.mkdir()
    picture = {"file": "figures/gone.png", "image": "a", "title": "t", "alt": "t"}
    document = {"part": "test", "checkpoint_step": 3, "branches": ["vit"], "pictures": [picture]}
    (folder / "explain.json").write_text(json.dumps(document))
    assert explained.read(tmp_path, 3) is None
    assert "gone.png: cannot be read" in caplog.text


def test_a_folder_without_a_run_is_refused_and_left_alone(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        explain(tmp_path / "none")
    assert not (tmp_path / "none").exists()
