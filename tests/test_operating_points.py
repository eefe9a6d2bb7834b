import time

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxbusi.evaluation import intervals, operating_points
from jaxbusi.evaluation.operating_points import FIXED, best, rates
from jaxbusi.evaluation.predictions import Predictions


def make(malignant, chance):
    """Rows that are malignant or benign, with a chance of malignant each."""
    chance = np.asarray(chance, float)
    return Predictions(
        [f"{row:04}.png" for row in range(len(chance))],
        np.zeros(len(chance)),
        np.asarray(malignant, int),
        np.stack([1 - chance, chance, 0 * chance], axis=1),
    )


def random_rows(count, seed=0):
    rng = np.random.default_rng(seed)
    malignant = rng.random(count) < 0.3
    # Rounded, so that images share a chance.
    return malignant, np.round(np.clip(rng.normal(0.35 + 0.3 * malignant, 0.2), 0, 1), 2)


def test_by_hand():
    # Of ten others one reaches 0.8 and two 0.6; of four malignant ones 1 reaches 0.9, 3 reach 0.7.
    others = [0.8, 0.6, *[0.1] * 8]
    malignant = [0.9, 0.7, 0.7, 0.5]
    rows = make([0] * 10 + [1] * 4, others + malignant)
    found = operating_points.operating_points(rows, resamples=200)
    assert [(point["fixed"], point["at"]) for point in found] == list(FIXED)
    at_90, at_95, sensitive_90, sensitive_95 = found
    # Specificity 0.9 lets one other through: from 0.7 on, where 3 of 4 are found.
    assert at_90["best"].value == pytest.approx(3 / 4)
    assert (at_90["threshold"], at_90["reached"]) == (0.7, pytest.approx(0.9))
    # 0.95 of ten is none: from 0.9 on, where 1 of 4 is found.
    assert at_95["best"].value == pytest.approx(1 / 4)
    assert (at_95["threshold"], at_95["reached"]) == (0.9, 1)
    # 0.9 and 0.95 of four are all four: from 0.5 on, where two others are called malignant.
    for point in (sensitive_90, sensitive_95):
        assert point["best"].value == pytest.approx(8 / 10)
        assert (point["threshold"], point["reached"]) == (0.5, 1)
    for point in found:
        assert point["best"].low <= point["best"].value <= point["best"].high


def test_the_curve_is_scikit_learns():
    malignant, chance = random_rows(120)
    weights = np.random.default_rng(1).multinomial(120, np.full(120, 1 / 120), 4).astype(float)
    sensitivity, specificity, thresholds = rates(malignant, chance, weights)
    for row, weight in enumerate(weights):
        false, true, cuts = sklearn_metrics.roc_curve(
            malignant, chance, sample_weight=weight, drop_intermediate=False
        )
        # Ours also has the thresholds that no row of this resample lies at.
        at = np.searchsorted(-thresholds, -cuts)
        np.testing.assert_allclose(thresholds[at], cuts)
        np.testing.assert_allclose(sensitivity[row, at], true, atol=1e-12)
        np.testing.assert_allclose(1 - specificity[row, at], false, atol=1e-12)
        for side, least in FIXED:
            [value], _ = best(sensitivity[[row]], specificity[[row]], side, least)
            expected = (
                true[1 - false >= least - 1e-9].max()
                if side == "specificity"
                else (1 - false)[true >= least - 1e-9].max()
            )
            assert value == pytest.approx(expected, abs=1e-12)


def test_the_threshold_is_found_anew_in_each_resample():
    malignant, chance = random_rows(150, seed=3)
    rows = make(malignant, chance)
    found = operating_points.operating_points(rows, resamples=400, seed=5)[0]
    label, clusters = rows.label, rows.source
    [weights] = intervals.resample_weights(label, clusters, 400, 5)
    anew, kept = [], []
    for weight in weights:
        false, true, _ = sklearn_metrics.roc_curve(
            malignant, chance, sample_weight=weight, drop_intermediate=False
        )
        anew.append(true[false <= 0.1 + 1e-9].max())
        kept.append(weight[malignant & (chance >= found["threshold"])].sum() / malignant.sum())
    low, high = np.quantile(anew, [0.025, 0.975])
    assert (found["best"].low, found["best"].high) == (pytest.approx(low), pytest.approx(high))
    # With the threshold kept the interval would be narrower: the search is part of the chance.
    kept_low, kept_high = np.quantile(kept, [0.025, 0.975])
    assert high - low > 1.1 * (kept_high - kept_low)


def test_a_perfect_test_is_not_certain():
    rows = make([0] * 20 + [1] * 10, [0.2] * 20 + [0.9] * 10)
    sensitive, _, specific, _ = operating_points.operating_points(rows, resamples=50)
    assert sensitive["best"].exact
    # Clopper-Pearson from n of n is (alpha/2)^(1/n).
    assert sensitive["best"].low == pytest.approx(0.025 ** (1 / 10))
    assert specific["best"].low == pytest.approx(0.025 ** (1 / 20))
    assert (specific["best"].value, specific["threshold"], specific["reached"]) == (1, 0.9, 1)


def test_a_test_that_ranks_the_wrong_way_round():
    rows = make([0] * 10 + [1] * 10, [0.9] * 10 + [0.1] * 10)
    at_90, _, sensitive, _ = operating_points.operating_points(rows, resamples=50)
    assert (at_90["best"].value, at_90["threshold"], at_90["reached"]) == (0, None, 1)
    assert at_90["best"].high == pytest.approx(1 - 0.025 ** (1 / 10))
    assert (sensitive["best"].value, sensitive["threshold"]) == (0, 0.1)


@pytest.mark.parametrize("label", [0, 1])
def test_nothing_to_tell_apart(label):
    for point in operating_points.operating_points(make([label] * 3, [0.5] * 3), resamples=10):
        assert np.isnan(point["best"].value)
        assert np.isnan(point["reached"])
        assert point["threshold"] is None


def test_copies_do_not_narrow_the_interval():
    malignant, chance = random_rows(60, seed=4)
    once = operating_points.operating_points(make(malignant, chance), resamples=300)
    rows = make(np.repeat(malignant, 5), np.repeat(chance, 5))
    names = [rows.image[row // 5] for row in range(300)]
    copies = Predictions(names, np.tile(np.arange(5), 60), rows.label, rows.probabilities)
    again = operating_points.operating_points(copies, resamples=300)
    for one, other in zip(once, again, strict=True):
        assert other["best"].low == pytest.approx(one["best"].low)
        assert other["best"].high == pytest.approx(one["best"].high)


def test_the_papers_size_takes_a_second_or_two():
    rows = make(*random_rows(780))
    start = time.process_time()
    operating_points.operating_points(rows)
    assert time.process_time() - start < 2
