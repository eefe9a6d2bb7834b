"""A finished run as a function: the probabilities of its evaluation, for images of any size."""

import json

import numpy as np
import pytest

from jaxbusi import familiarity, train
from jaxbusi.data.busi import read_records
from jaxbusi.data.images import decode_image
from jaxbusi.errors import UserError
from jaxbusi.evaluation.calibration import fit_temperature, scale
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.familiarity import Familiarity
from jaxbusi.predict import Predictor
from jaxbusi.train import train_and_evaluate
from tests.runs import make_config
from tests.tiny import TinyModel

pytestmark = pytest.mark.usefixtures("tiny_model", "undrawn")


@pytest.fixture(scope="module")
def run(tmp_path_factory, phantoms):
    tmp_path = tmp_path_factory.mktemp("run")
    changes = {"num_epochs": 1.0, "ema_decay": 0.5, "data.validation_fraction": 0.2}
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", lambda *_: TinyModel(dropout=0.3))
        train_and_evaluate(make_config(phantoms, **changes), tmp_path)
    return tmp_path, phantoms


def test_the_probabilities_are_those_of_the_evaluation(run):
    workdir, folder = run
    rows = Predictions.read_csv(workdir / "predictions_test.csv")
    files = {record.name: record.image for record in read_records(folder)}
    first = [index for index, copy in enumerate(rows.copy) if copy == 0]
    images = [decode_image(files[rows.image[index]].read_bytes(), "image") for index in first]
    predictor = Predictor.load(workdir)
    probabilities = predictor(images)
    assert probabilities.dtype == np.float32
    np.testing.assert_allclose(probabilities, rows.probabilities[first], atol=1e-6)
    assert predictor.classes == ("benign", "malignant", "normal")

    # Calibrated when asked, by what was fitted on the validation part.
    fitted = json.loads((workdir / "results.json").read_text())["calibration"]
    stored = json.loads((workdir / "calibration.json").read_text())
    assert stored.pop("checkpoint_step") > 0
    assert stored == fitted
    validation = Predictions.read_csv(workdir / "predictions_validation.csv").originals()
    assert fitted["temperature"] == pytest.approx(fit_temperature(validation))
    calibrated = Predictor.load(workdir, calibrated=True)(images)
    wanted = scale(rows.take(np.array(first)), fitted["temperature"]).probabilities
    np.testing.assert_allclose(calibrated, wanted, atol=1e-5)
    (workdir / "calibration.json").unlink()
    with pytest.raises(UserError, match="cannot be calibrated: the run has no validation part"):
        Predictor.load(workdir, calibrated=True)

    # Five images of a validation part are too few to say what is unlike the training data.
    with pytest.raises(ValueError, match=r"has no familiarity\.npz"):
        Predictor.load(workdir).distance(images)
    fitted = Familiarity(np.ones((1, 4), np.float32), np.eye(4, dtype=np.float32), 9, 9)
    familiarity.write(
        workdir, fitted, json.loads((workdir / "results.json").read_text())["checkpoint"]["step"]
    )
    measured = Predictor.load(workdir).distance(images)
    assert measured.shape == (len(images),)
    assert measured.min() > 0
    (workdir / "familiarity.npz").unlink()

    # More than one batch, of other sizes: each as if alone.
    rng = np.random.default_rng(0)
    many = [rng.integers(0, 256, (20 + i, 50 - i, 3), np.uint8) for i in range(19)]
    together = predictor(many)
    assert together.shape == (19, 3)
    np.testing.assert_allclose(together.sum(1), 1, atol=1e-6)
    np.testing.assert_allclose(together[17:18], predictor([many[17]]), atol=1e-6)
    np.testing.assert_allclose(predictor(np.stack([many[0]] * 2))[1], together[0], atol=1e-6)
    assert predictor([]).shape == (0, 3)


@pytest.mark.parametrize(
    "image",
    [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3), np.float32), np.zeros((0, 5, 3), np.uint8)],
)
def test_other_arrays_are_refused(run, image):
    with pytest.raises(ValueError, match=r"uint8\[H, W, 3\]"):
        Predictor.load(run[0])([image])


def test_a_folder_without_a_run_is_refused(tmp_path):
    with pytest.raises(UserError, match="holds no run"):
        Predictor.load(tmp_path)
