import time

import numpy as np
import pytest
from scipy import optimize, special
from sklearn import calibration as sklearn_calibration
from sklearn import metrics as sklearn_metrics

from jaxbusi.evaluation import calibration, intervals
from jaxbusi.evaluation.predictions import Predictions


def make(label, probabilities):
    names = [f"{row:04}.png" for row in range(len(label))]
    return Predictions(names, np.zeros(len(label)), np.array(label), np.array(probabilities))


def drawn_rows(count, temperature=1.0, seed=0):
    """Labels drawn from the probabilities; those are then made surer, for temperatures above 1."""
    rng = np.random.default_rng(seed)
    logits = rng.normal(0, 1.5, (count, 3))
    shares = special.softmax(logits, axis=1).cumsum(axis=1)
    label = (rng.random((count, 1)) > shares[:, :2]).sum(axis=1)
    return make(label, special.softmax(logits * temperature, axis=1))


def errors(rows):
    found = calibration.weighted_errors(rows, np.ones((1, len(rows))))
    return found["brier"].item(), found["ece"].item()


def test_brier_against_his_own_example():
    # Brier (Monthly Weather Review 78, 1950), table 1: ten forecasts of rain, score 0.19.
    rain = np.array([0.7, 0.9, 0.8, 0.4, 0.2, 0, 0, 0, 0, 0.1])
    rained = np.array([0, 1, 1, 1, 0, 0, 0, 0, 0, 0])
    rows = make(1 - rained, np.stack([rain, 1 - rain, 0 * rain], axis=1))
    assert errors(rows)[0] == pytest.approx(0.19)
    assert errors(make([0, 1], np.full((2, 3), 1 / 3)))[0] == pytest.approx(2 / 3)


def test_ece_against_the_example_of_torchmetrics(monkeypatch):
    # The documentation of torchmetrics' MulticlassCalibrationError: three bins, 0.2.
    monkeypatch.setattr(calibration, "BINS", 3)
    shares = [[0.25, 0.20, 0.55], [0.55, 0.05, 0.40], [0.10, 0.30, 0.60], [0.90, 0.05, 0.05]]
    rows = make([0, 1, 2, 0], shares)
    assert errors(rows)[1] == pytest.approx(0.2)
    one, two = calibration.bins(rows)
    assert (one["count"], one["accuracy"]) == (3, pytest.approx(1 / 3))
    assert one["confidence"] == pytest.approx((0.55 + 0.55 + 0.6) / 3)
    assert (two["count"], two["accuracy"], two["low"], two["high"]) == (1, 1, 2 / 3, 1)


def test_scikit_learn_agrees_on_any_weighting():
    rows = drawn_rows(300, temperature=2.0)
    weights = np.random.default_rng(1).multinomial(300, np.full(300, 1 / 300), 5).astype(float)
    found = calibration.weighted_errors(rows, weights)
    for row, weight in enumerate(weights):
        theirs = sklearn_metrics.brier_score_loss(
            rows.label, rows.probabilities, sample_weight=weight, labels=range(3)
        )
        assert found["brier"][row] == pytest.approx(theirs)
        repeated = np.repeat(np.arange(300), weight.astype(int))
        right = (rows.predicted == rows.label)[repeated]
        confidence = rows.probabilities.max(axis=1)[repeated]
        share, mean = sklearn_calibration.calibration_curve(right, confidence, n_bins=15)
        counts = np.histogram(confidence, np.linspace(0, 1, 16))[0]
        expected = np.dot(counts[counts > 0], abs(share - mean)) / 300
        assert found["ece"][row] == pytest.approx(expected)


def test_a_bin_holds_its_upper_edge():
    rows = make([0, 0, 0], [[0.6, 0.4, 0], [0.6 + 1e-9, 0.4 - 1e-9, 0], [1, 0, 0]])
    found = calibration.bins(rows)
    assert [(round(entry["high"] * 15), entry["count"]) for entry in found] == [
        (9, 1),
        (10, 1),
        (15, 1),
    ]


def test_the_intervals_are_quantiles_over_resampled_images():
    rows = drawn_rows(120, temperature=1.5)
    names = [rows.image[row // 2] for row in range(120)]
    pairs = Predictions(
        names, np.tile([0, 1], 60), np.repeat(rows.label[::2], 2), rows.probabilities
    )
    found = calibration.calibration(pairs, resamples=300, seed=9)
    [weights] = intervals.resample_weights(pairs.label, pairs.source, 300, 9)
    scores = [
        sklearn_metrics.brier_score_loss(
            pairs.label, pairs.probabilities, sample_weight=weight, labels=range(3)
        )
        for weight in weights
    ]
    assert (found["brier"].low, found["brier"].high) == pytest.approx(
        tuple(np.quantile(scores, [0.025, 0.975]))
    )
    assert found["ece"].low <= found["ece"].value <= found["ece"].high
    assert sum(entry["count"] for entry in found["bins"]) == 120


def test_temperature_by_hand():
    # Two of three right at 0.8 against 0.1 and 0.1: 0.8 becomes 2/3 where 8^(1/T) = 4.
    rows = make([0, 0, 1], [[0.8, 0.1, 0.1]] * 3)
    temperature = calibration.fit_temperature(rows)
    assert temperature == pytest.approx(1.5, rel=1e-4)
    scaled = calibration.scale(rows, temperature)
    np.testing.assert_allclose(scaled.probabilities[:, 0], 2 / 3, rtol=1e-4)
    np.testing.assert_allclose(scaled.probabilities.sum(axis=1), 1)


def test_temperature_is_where_the_slope_of_the_log_loss_is_zero():
    rows = drawn_rows(400, temperature=2.5)
    logs = np.log(rows.probabilities)

    def slope(inverse):  # of the log loss in 1/T: expected minus observed logarithm
        shares = special.softmax(logs * inverse, axis=1)
        return ((shares * logs).sum(axis=1) - logs[np.arange(400), rows.label]).mean()

    expected = 1 / optimize.brentq(slope, 0.05, 20)
    assert calibration.fit_temperature(rows) == pytest.approx(expected, rel=1e-4)
    assert expected == pytest.approx(2.5, rel=0.25)


def test_a_temperature_fitted_elsewhere_mends_what_was_too_sure():
    temperature = calibration.fit_temperature(drawn_rows(1000, 3.0, seed=1))
    other = drawn_rows(1000, 3.0, seed=2)
    scaled = calibration.scale(other, temperature)
    np.testing.assert_array_equal(scaled.predicted, other.predicted)
    assert errors(scaled)[0] < errors(other)[0]
    assert errors(scaled)[1] < errors(other)[1] / 2
    assert not calibration.at_edge(temperature)


def test_nothing_to_learn_a_temperature_from():
    right = make([0, 1], [[0.6, 0.3, 0.1], [0, 1, 0]])
    assert calibration.fit_temperature(right) == pytest.approx(0.05)
    sure = make([0], [[0.8, 0.1, 0.1]])  # of which the loss is rounded to 0 before the edge
    assert calibration.fit_temperature(sure) == pytest.approx(0.05)
    wrong = make([1, 0], [[0.6, 0.3, 0.1], [0, 1, 0]])
    assert calibration.fit_temperature(wrong) == pytest.approx(20)
    assert calibration.at_edge(0.05)
    assert calibration.at_edge(20.0)
    assert np.isfinite(calibration.scale(right, 0.05).probabilities).all()


def test_the_papers_size_takes_a_second():
    rows = drawn_rows(780)
    start = time.process_time()
    calibration.calibration(rows)
    calibration.fit_temperature(rows)
    assert time.process_time() - start < 2
