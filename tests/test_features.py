"""Features that are kept give what a frozen branch would have given, for less."""

import functools
import re
import zipfile

import jax
import numpy as np
import pytest

from jaxbusi import features, train
from jaxbusi.campaign import run_study
from jaxbusi.data import pipeline
from jaxbusi.errors import UserError
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.logs import read_history
from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import ViTSize
from jaxbusi.train import Stopped, evaluate, train_and_evaluate
from tests.runs import make_config, stop_after
from tests.test_finetuning import TwoBranches
from tests.tiny import weights_of

pytestmark = pytest.mark.usefixtures("undrawn")

VIT = ViTSize(patch=16, width=8, depth=1, heads=2, mlp=16)


@pytest.fixture
def counted(monkeypatch):
    """Both branches small, and how often the frozen one was asked to look at images."""
    looked = []

    class Counting(TwoBranches):
        def __call__(self, images, *, train, given=None):
            if given is None or "vit" not in given:
                looked.append(images.shape[0])
            return super().__call__(images, train=train, given=given)

    monkeypatch.setattr(train, "build_model", lambda *_: Counting())
    return looked


FROZEN = {"data.views": 2, "freeze.vit": -1.0, "num_epochs": 3.0}


def curves(workdir):
    return [(line["step"], line["part"], line["loss"]) for line in read_history(workdir)]


@pytest.mark.usefixtures("counted")
def test_a_run_on_kept_features_is_the_run_without_them(tmp_path, phantoms, monkeypatch):
    config = make_config(phantoms, **FROZEN, accumulate=2, ema_decay=0.5)
    kept, plain = tmp_path / "kept", tmp_path / "plain"
    train_and_evaluate(config, kept)
    [file] = (kept / "features").iterdir()
    with np.load(file) as content:
        # 24 images have two copies in two views; 6 are tested as they are and as copy 1.
        assert content["keys"].shape == (24 * 2 * 2 + 6 * 2, 16)
        assert len(content["vit"]) == len(content["keys"])
    monkeypatch.setattr(train, "compute_features", lambda *_: None)
    train_and_evaluate(config, plain)
    # The model's convolution has a bias before batch normalisation, whose gradient is rounding and
    # whose steps Adam makes as large as any: evaluation feels that in the fourth digit.
    for ours, theirs in zip(curves(kept), curves(plain), strict=True):
        assert ours[:2] == theirs[:2]
        bound = 1e-6 if ours[1] == "train" else 2e-3
        assert ours[2] == pytest.approx(theirs[2], rel=bound)
    probabilities = [
        Predictions.read_csv(folder / "predictions_test.csv").probabilities
        for folder in (kept, plain)
    ]
    np.testing.assert_allclose(*probabilities, atol=2e-3)
    # Evaluation looks at the images again, and finds the same.
    evaluate(None, kept)
    again = Predictions.read_csv(kept / "predictions_test.csv").probabilities
    np.testing.assert_allclose(again, probabilities[0], atol=1e-5)


def test_the_frozen_branch_is_compiled_for_the_features_alone(tmp_path, phantoms, counted):
    train_and_evaluate(make_config(phantoms, **FROZEN), tmp_path)
    looked = len(counted)  # traced for the weights and for the features
    assert looked <= 3
    for path in (tmp_path / "features").iterdir():
        path.touch()
    train_and_evaluate(make_config(phantoms, **FROZEN), tmp_path)  # from the files
    assert len(counted) - looked <= 1


@pytest.mark.usefixtures("counted")
def test_a_stopped_run_goes_on_from_the_kept_features(tmp_path, phantoms, monkeypatch):
    config = make_config(phantoms, **FROZEN)
    whole = train_and_evaluate(config, tmp_path / "whole")
    undo = stop_after(monkeypatch, 4)
    with pytest.raises(Stopped):
        train_and_evaluate(config, tmp_path / "parted")
    undo()
    assert train_and_evaluate(config, tmp_path / "parted") == whole


@pytest.mark.usefixtures("counted")
@pytest.mark.parametrize("how", ["damaged", "other weights"])
def test_features_that_are_damaged_or_of_other_weights_are_computed_again(
    tmp_path, phantoms, monkeypatch, caplog, how
):
    config = make_config(phantoms, **FROZEN)
    whole = train_and_evaluate(config, tmp_path / "whole")
    undo = stop_after(monkeypatch, 1)
    with pytest.raises(Stopped):
        train_and_evaluate(config, tmp_path / "parted")
    undo()
    [path] = (tmp_path / "parted" / "features").iterdir()
    content = path.read_bytes()
    if how == "damaged":
        damaged = bytearray(content)
        damaged[len(damaged) // 2] ^= 255
        path.write_bytes(damaged)
    else:
        with np.load(path) as file:
            columns = dict(file)
        np.savez(path, **{**columns, "vit": columns["vit"] + 1, "fingerprint": "x"})
    assert train_and_evaluate(config, tmp_path / "parted") == whole
    assert f"{path} is damaged or of other weights; it is computed again" in caplog.text
    assert path.read_bytes() == content


@pytest.mark.parametrize("damage", ["no array", "other rows", "no archive", "empty"])
def test_features_of_another_kind_are_as_good_as_none(tmp_path, damage, caplog):
    path, keys = tmp_path / "features.npz", [b"0" * 16, b"1" * 16]
    columns = {"vit": np.ones((2, 3), np.float32)}
    features._Known(path, "x").add(keys, columns)
    known = features._Known(path, "x")
    np.testing.assert_array_equal(known.take(keys)["vit"], columns["vit"])
    assert caplog.text == ""
    if damage == "no array":
        with zipfile.ZipFile(path, "a") as archive:
            archive.writestr("resnet18", "x")
    elif damage == "other rows":
        with np.load(path) as file:
            np.savez(path, **{**file, "vit": columns["vit"][:1]})
    elif damage == "no archive":
        with path.open("wb") as file:
            np.save(file, columns["vit"])
    else:
        path.write_bytes(b"")
    assert features._Known(path, "x").missing(keys).tolist() == [0, 1]
    assert "is damaged or of other weights" in caplog.text


@pytest.mark.usefixtures("counted")
def test_where_all_branches_are_known_no_image_is_augmented(tmp_path, phantoms, monkeypatch):
    config = make_config(phantoms, **FROZEN, **{"freeze.resnet18": -1.0})
    augmented = []
    augment = pipeline._Loader._augment
    monkeypatch.setattr(
        pipeline._Loader,
        "_augment",
        lambda self, row, epoch, out: [augmented.append(row), augment(self, row, epoch, out)],
    )
    train_and_evaluate(config, tmp_path / "kept")
    # For features: 24 images x 2 copies x 2 views, and 6 copies of test images; these once more to
    # be predicted, and the picture of a batch of 8, of which a few are made ahead. Three epochs of
    # training would take 144 besides.
    assert len(augmented) <= 24 * 2 * 2 + 6 * 2 + 4 * 8
    monkeypatch.setattr(train, "compute_features", lambda *_: None)
    train_and_evaluate(config, tmp_path / "plain")
    for ours, theirs in zip(curves(tmp_path / "kept"), curves(tmp_path / "plain"), strict=True):
        assert ours[:2] == theirs[:2]
        assert ours[2] == pytest.approx(theirs[2], rel=1e-5)


@pytest.mark.usefixtures("counted")
def test_the_folds_of_a_study_share_their_features(tmp_path, phantoms, caplog):
    config = make_config(phantoms, **FROZEN)
    with config.unlocked():
        config.study = {
            "seeds": (0,),
            "folds": 3,
            "arms": ("leaky", "clean"),
            "changes": {arm: {"data": {"protocol": arm}} for arm in ("leaky", "clean")},
            "published": {},
        }
    with caplog.at_level("INFO"):
        run_study(config, tmp_path)
    [path] = (tmp_path / "features").iterdir()
    with np.load(path) as file:
        assert len(file["keys"]) == 30 * (1 + 2 * 2)  # the image, and two copies in two views
    counts = [
        int(re.search(r": (\d+) of \d+ images by vit", text)[1])
        for text in caplog.messages
        if "images by vit" in text
    ]
    assert sum(counts) == 30 * (1 + 2 * 2)


def test_the_classifier_takes_given_features():
    model = Classifier(("resnet18", "vit"), vit=VIT, hidden=(8,))
    images = np.random.default_rng(0).integers(0, 256, (2, 32, 32, 3), np.uint8)
    variables = weights_of(model, images)
    apply = jax.jit(functools.partial(model.apply, train=False))
    output = apply(variables, images)
    given = apply(variables, np.zeros_like(images), given={"vit": output.features["vit"]})
    np.testing.assert_array_equal(given.features["vit"], output.features["vit"])
    assert np.any(given.features["resnet18"] != output.features["resnet18"])
    both = apply(variables, np.zeros_like(images), given=output.features)
    np.testing.assert_allclose(both.logits, output.logits, atol=1e-6)


def test_mixing_with_kept_features_is_refused(tmp_path, phantoms):
    config = make_config(phantoms, **FROZEN, **{"mixing.mixup_alpha": 0.2})
    with pytest.raises(UserError, match=r"config\.mixing blends .* vit; set config\.data\.views=0"):
        train_and_evaluate(config, tmp_path)
