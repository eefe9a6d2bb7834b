"""Distances from the training data: by hand, and as a run writes them."""

import jax
import numpy as np
import pytest

from jaxbusi import evidence, familiarity, train
from jaxbusi.errors import UserError
from jaxbusi.familiarity import Familiarity, distances, fit
from jaxbusi.state import make_mesh
from jaxbusi.train import train_and_evaluate
from scripts import measure_familiarity
from tests.runs import make_config
from tests.test_finetuning import TwoBranches


def measured(fitted, features):
    return np.asarray(distances(np.asarray(features, np.float32), *fitted.arrays))


def test_features_of_another_run_are_refused():
    with pytest.raises(UserError, match=r"about 5 features, the run has 4: .* --mode=evaluate"):
        distances(np.zeros((2, 4), np.float32), np.zeros((3, 5)), np.eye(5))


def test_it_is_the_distance_of_mahalanobis_to_the_nearest_class():
    """Two classes that differ among themselves 3 times as much along one axis as the other."""
    rng = np.random.default_rng(0)
    labels = np.arange(4000) % 2
    spread = np.array([3.0, 1.0])
    means = np.array([[0.0, 0.0], [30.0, 0.0]])
    training = rng.normal(size=(4000, 2)) * spread + means[labels]
    validation = rng.normal(size=(1000, 2)) * spread + means[0]
    fitted = fit(training.astype(np.float32), labels, validation.astype(np.float32))
    assert (fitted.training, fitted.validation) == (4000, 1000)
    assert np.mean(measured(fitted, validation) > 1) == pytest.approx(0.05)
    # The length of two standard normal numbers is below 2.448 in 95 of 100 cases.
    points = np.array([[0, 0], [30, 0], [3 * 2.448, 0], [30, 2.448], [15, 0], [0, 24.48]])
    np.testing.assert_allclose(
        measured(fitted, points), [0, 0, 1, 1, 5 / 2.448, 10], rtol=0.08, atol=0.08
    )


def test_accelerators_are_told_not_to_round_the_factors():
    shapes = [np.zeros(shape, np.float32) for shape in ((5, 4), (3, 4), (4, 4))]
    products = [
        equation.params["precision"]
        for equation in jax.make_jaxpr(distances)(*shapes).eqns
        if equation.primitive.name == "dot_general"
    ]
    assert products == [(jax.lax.Precision.HIGHEST,) * 2] * 2


def test_features_that_are_more_than_the_images_or_never_change():
    rng = np.random.default_rng(1)
    training = rng.normal(size=(40, 100)).astype(np.float32)
    training[:, 7] = 0
    labels = np.arange(40) % 3
    validation = rng.normal(size=(30, 100)).astype(np.float32)
    validation[:, 7] = 0
    fitted = fit(training, labels, validation)
    found = measured(fitted, validation)
    assert np.isfinite(found).all()
    assert np.mean(found > 1) <= 0.07
    assert measured(fitted, 10 * validation).min() > 3
    same = fit(np.ones((9, 4), np.float32), labels[:9], np.ones((20, 4), np.float32))
    assert measured(same, np.ones((2, 4))).tolist() == [0, 0]


def test_what_is_written_is_read(tmp_path):
    assert familiarity.read(tmp_path, 3)[0] is None
    fitted = fit(np.eye(5, 4, dtype=np.float32), np.arange(5) % 2, np.eye(4, dtype=np.float32))
    familiarity.write(tmp_path, fitted, 3)
    found, words = familiarity.read(tmp_path, 3)
    assert isinstance(found, Familiarity)
    assert found.sha256 == fitted.sha256
    assert words == (
        "fitted on 5 images of the training part, the limit on 4 of the validation part"
    )
    found, words = familiarity.read(tmp_path, 4)
    assert found is None
    assert words.startswith("familiarity.npz is of step 3, the weights are of step 4; run python")


@pytest.mark.parametrize(
    "changes",
    [
        {"means": np.zeros((2, 3))},
        {"means": np.zeros((2, 3), np.float32)},
        {"whitening": np.full((4, 4), np.nan, np.float32)},
        {"whitening": np.array([None])},
        {"checkpoint_step": None},
    ],
)
def test_a_damaged_file_is_refused(tmp_path, changes):
    content = {
        "means": np.zeros((2, 4), np.float32), "whitening": np.eye(4, dtype=np.float32),
        "training": np.int64(5), "validation": np.int64(4), "checkpoint_step": np.int64(3),
        **changes,
    }  # fmt: skip
    np.savez(tmp_path / "familiarity.npz", **{k: v for k, v in content.items() if v is not None})
    with pytest.raises(UserError, match=r"familiarity.npz cannot be read \(.*; run python -m") as e:
        familiarity.read(tmp_path, 3)
    assert "\n" not in str(e.value)
    (tmp_path / "familiarity.npz").write_bytes(b"PK and no more")
    with pytest.raises(UserError, match="cannot be read"):
        familiarity.read(tmp_path, 3)


@pytest.mark.usefixtures("tiny_model")
def test_a_run_fits_it_on_its_training_part_and_sets_the_limit_on_the_validation_part(
    tmp_path, phantoms, monkeypatch
):
    monkeypatch.setattr(familiarity, "LEAST", 4)
    monkeypatch.setattr(evidence, "write_evidence", lambda *_: {})
    given = {}
    monkeypatch.setattr(
        familiarity, "fit", lambda *arrays: given.update(arrays=arrays) or fit(*arrays)
    )
    config = make_config(phantoms, num_epochs=0.5, **{"data.validation_fraction": 0.2})
    train_and_evaluate(config, tmp_path / "run")
    run = train.load_model(tmp_path / "run", make_mesh())
    assert familiarity.read(tmp_path / "run", run.step)[0] is not None
    training, labels, validation = given["arrays"]
    lines = (tmp_path / "run" / "split.csv").read_text().splitlines()
    parts = [line.split(",")[4] for line in lines]
    assert (len(training), len(validation)) == (parts.count("train"), parts.count("validation"))
    # Of the images themselves, in their order: the same as of each alone.
    from jaxbusi.data.images import decode_image, resize
    from jaxbusi.data.records import CLASSES
    from jaxbusi.steps import joined

    for part, features, truth in (("train", training, labels), ("validation", validation, None)):
        names = [line.split(",")[0] for line in lines if line.split(",")[4] == part]
        squares = np.stack(
            [resize(decode_image((phantoms / name).read_bytes(), name), 16) for name in names]
        )
        wanted = joined(run.model.apply(run.variables, squares, train=False))
        np.testing.assert_allclose(features, wanted, atol=1e-5)
        if truth is not None:
            assert [CLASSES[label] for label in truth] == [name.split("/")[0] for name in names]

    path = tmp_path / "run" / "familiarity.npz"
    path.unlink()
    monkeypatch.setattr(familiarity, "LEAST", 100)
    train.evaluate(None, tmp_path / "run")
    found, why = familiarity.read(tmp_path / "run", run.step)
    assert found is None
    assert why.startswith("the run has no validation part of 100 images")


def test_a_frozen_branch_whose_features_are_kept_is_compared_by_them(
    tmp_path, phantoms, monkeypatch
):
    """Training has them from the file; evaluation afterwards looks at the images."""
    fitted, written = [], []
    monkeypatch.setattr(familiarity, "LEAST", 4)
    monkeypatch.setattr(familiarity, "fit", lambda *given: fitted.append(given) or fit(*given))
    monkeypatch.setattr(evidence, "write_evidence", lambda *given: written.append(given[2]) or {})
    monkeypatch.setattr(train, "build_model", lambda *_: TwoBranches())
    frozen = {"data.views": 2, "freeze.vit": -1.0, "num_epochs": 0.5}
    config = make_config(phantoms, **frozen, **{"data.validation_fraction": 0.2})
    train_and_evaluate(config, tmp_path)
    [kept] = (tmp_path / "features").iterdir()
    with np.load(kept) as content:
        # Of 19 training images two copies in two views, and the images; of 5 and 6 others both.
        assert len(content["vit"]) == 19 * 2 * 2 + 19 + 5 * 2 + 6 * 2
    train.evaluate(None, tmp_path)
    for ours, theirs in zip(*fitted, strict=True):
        np.testing.assert_allclose(ours, theirs, atol=1e-5)
    assert [len(rows) for rows in fitted[0]] == [19, 19, 5]
    # What the temperature is fitted on.
    ours, theirs = (parts["validation"].probabilities for parts in written)
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_the_sets_of_the_measurement_are_images(monkeypatch):
    monkeypatch.setattr(measure_familiarity, "_MOST", 4)
    own = [np.random.default_rng(n).integers(0, 256, (60, 80, 3), np.uint8) for n in range(6)]
    sets = measure_familiarity.foreign(own, own[:2])
    assert all(2 <= len(images) <= 18 for images in sets.values())
    for images in sets.values():
        assert {(image.dtype, image.shape[2]) for image in images} == {(np.dtype(np.uint8), 3)}
    np.testing.assert_array_equal(sets["test images, inverted"][3], 255 - own[3])
    assert len(sets["synthetic ultrasound (jaxbusi.data.phantoms)"]) == 4
