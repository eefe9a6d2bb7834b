import time

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn_metrics

from jaxbusi.evaluation import selective
from jaxbusi.evaluation.predictions import Predictions


def make(right, confidence):
    """Benign images, right or wrong with a top probability each."""
    confidence = np.asarray(confidence, float)
    order = np.where(np.asarray(right, bool)[:, None], [0, 1], [1, 0])
    rows = np.zeros((len(confidence), 3))
    np.put_along_axis(rows, order, np.stack([confidence, 1 - confidence], axis=1), axis=1)
    names = [f"{row:04}.png" for row in range(len(confidence))]
    return Predictions(names, np.zeros(len(names)), np.zeros(len(names)), rows)


def random_rows(count):
    rng = np.random.default_rng(count)
    confidence = np.round(rng.uniform(0.51, 1, count), 2)
    return make(rng.random(count) < confidence, confidence)


def test_by_hand():
    confidence = [0.99, 0.95, 0.9, 0.85, 0.8, 0.8, 0.7, 0.65, 0.6, 0.55]
    rows = make([1, 1, 1, 0, 1, 1, 0, 1, 0, 0], confidence)
    points = selective.selective_accuracy(rows, resamples=200)
    assert [point["at"] for point in points] == [1.0, 0.9, 0.8, 0.7, 0.6, 0.5]
    values = [point["accuracy"].value for point in points]
    assert values == pytest.approx([6 / 10, 6 / 9, 6 / 8, 5 / 7, 5 / 6, 5 / 6])
    # The fifth and the sixth share their probability: half of the images cannot be answered alone.
    assert (points[-1]["coverage"], points[-1]["answered"]) == (0.6, 6)
    assert [point["threshold"] for point in points] == [0.55, 0.6, 0.65, 0.7, 0.8, 0.8]
    for point in points:
        assert point["accuracy"].low <= point["accuracy"].value <= point["accuracy"].high


def test_scikit_learn_agrees_on_any_weighting():
    rows = random_rows(90)
    weights = np.random.default_rng(1).multinomial(90, np.full(90, 1 / 90), 3).astype(float)
    coverage, accuracy, thresholds = selective.curve(rows, weights)
    confidence = rows.probabilities.max(axis=1)
    assert (np.diff(thresholds) < 0).all()
    for row, weight in enumerate(weights):
        for column, threshold in enumerate(thresholds):
            kept = (confidence >= threshold) & (weight > 0)
            assert coverage[row, column] == pytest.approx(weight[kept].sum() / 90)
            if kept.any():
                expected = sklearn_metrics.accuracy_score(
                    rows.label[kept], rows.predicted[kept], sample_weight=weight[kept]
                )
                assert accuracy[row, column] == pytest.approx(expected)
            else:
                assert np.isnan(accuracy[row, column])


def test_all_answered_is_the_plain_accuracy_with_scipys_interval():
    rows = random_rows(80)
    point = selective.selective_accuracy(rows, resamples=5000)[0]
    right = (rows.predicted == rows.label).astype(float)
    assert (point["coverage"], point["accuracy"].value) == (1, pytest.approx(right.mean()))
    theirs = stats.bootstrap((right,), np.mean, method="percentile", rng=0).confidence_interval
    assert point["accuracy"].low == pytest.approx(theirs.low, abs=0.0126)  # an image is 0.0125
    assert point["accuracy"].high == pytest.approx(theirs.high, abs=0.0126)


def test_the_surest_half_without_a_mistake_is_not_certain():
    rows = make([1] * 12 + [0] * 8, np.linspace(0.99, 0.6, 20))
    point = selective.selective_accuracy(rows, resamples=100)[-1]
    assert point["answered"] == 10
    assert point["accuracy"].value == 1
    assert point["accuracy"].low < 1


def test_one_image():
    for point in selective.selective_accuracy(make([1], [0.9]), resamples=20):
        assert (point["coverage"], point["answered"], point["accuracy"].value) == (1, 1, 1)
        assert point["accuracy"].low == pytest.approx(0.025)
        assert point["accuracy"].exact


def test_the_papers_size_takes_a_second():
    rows = random_rows(780)
    start = time.process_time()
    selective.selective_accuracy(rows)
    assert time.process_time() - start < 2
