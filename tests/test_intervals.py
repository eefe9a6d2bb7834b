import dataclasses
import json
import time

import numpy as np
import pytest
from scipy import stats

from jaxbusi import atomic
from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import calibration, intervals, metrics, present, results
from jaxbusi.evaluation.predictions import Predictions


def make(label, probabilities, copies=1):
    """Rows in order of their sources, each with `copies` rows."""
    count = len(label)
    names = [f"{row // copies:05}.png" for row in range(count)]
    return Predictions(
        names, np.arange(count) % copies, np.asarray(label), np.asarray(probabilities)
    )


def sure_of(predicted):
    return np.full((len(predicted), 3), 0.1) + 0.7 * np.eye(3)[predicted]


def study(rng, sizes, right, copies):
    """A part in which an image is right with a chance of its own around `right[class]`.

    The chance is a beta variable, so that the copies of an image resemble each other.
    """
    label = np.repeat([0, 1, 2], sizes)
    chance = rng.beta(np.array(right)[label], 1 - np.array(right)[label])
    label, chance = np.repeat(label, copies), np.repeat(chance, copies)
    wrong = (label + rng.integers(1, 3, label.size)) % 3
    return make(label, sure_of(np.where(rng.random(label.size) < chance, label, wrong)), copies)


def apart(rows):
    """The same rows, each taken for independent of the others."""
    return dataclasses.replace(rows, unit=[str(row) for row in range(len(rows))])


def test_intervals_cover_the_truth_and_need_the_clusters():
    rng = np.random.default_rng(0)
    sizes, right = (50, 30, 20), (0.9, 0.75, 0.65)
    truth = {
        "accuracy": float(np.dot(sizes, right) / sum(sizes)),
        "recall": float(np.mean(right)),
        "per_class.malignant.recall": right[1],
    }
    covered = dict.fromkeys(truth, 0)
    naive, studies = 0, 200
    for _ in range(studies):
        rows = study(rng, sizes, right, copies=4)
        found = intervals.bootstrap(rows, resamples=200, seed=int(rng.integers(2**32)))
        for key, value in truth.items():
            covered[key] += found[key].low <= value <= found[key].high
        single = intervals.bootstrap(apart(rows), resamples=200)["accuracy"]
        naive += single.low <= truth["accuracy"] <= single.high
        assert single.high - single.low < found["accuracy"].high - found["accuracy"].low
    for key, hits in covered.items():
        assert 0.90 <= hits / studies <= 0.98, (key, hits / studies)
    assert naive / studies < 0.85  # copies taken for independent images promise too much


def test_the_width_follows_the_number_of_images_not_of_copies():
    label = np.repeat([0, 1, 2], [40, 30, 20])
    rng = np.random.default_rng(3)
    predicted = np.where(rng.random(label.size) < 0.8, label, (label + 1) % 3)
    once = intervals.bootstrap(make(label, sure_of(predicted)))
    # Every image five times over, alike: no new evidence, the very same intervals.
    alike = make(np.repeat(label, 5), sure_of(np.repeat(predicted, 5)), copies=5)
    for key, interval in intervals.bootstrap(alike).items():
        for end in ("value", "low", "high"):
            assert getattr(interval, end) == pytest.approx(getattr(once[key], end)), key
    independent = intervals.bootstrap(apart(alike))
    ratio = _width(independent["accuracy"]) / _width(once["accuracy"])
    assert ratio == pytest.approx(1 / np.sqrt(5), rel=0.15)


def _width(interval):
    return interval.high - interval.low


def test_the_bootstrap_agrees_with_scipy():
    label = np.zeros(60, int)
    predicted = (np.arange(60) % 4 == 0).astype(int)
    ours = intervals.bootstrap(make(label, sure_of(predicted)), resamples=9999)["accuracy"]
    theirs = stats.bootstrap(
        ((label == predicted).astype(float),), np.mean, method="percentile", rng=0
    ).confidence_interval
    assert ours.low == pytest.approx(theirs.low, abs=0.018)  # one image is 0.0167
    assert ours.high == pytest.approx(theirs.high, abs=0.018)


def test_resamples_keep_clusters_together_and_classes_full():
    label = np.repeat([0, 1, 2], [10, 6, 4])
    clusters = np.arange(20) // 2
    weights = np.concatenate(list(intervals.resample_weights(label, clusters, 50, 0)))
    assert weights.shape == (50, 20)
    np.testing.assert_array_equal(weights[:, 0::2], weights[:, 1::2])
    for index, size in enumerate((10, 6, 4)):
        np.testing.assert_array_equal(weights[:, label == index].sum(axis=1), size)
    assert weights.max() > 1


def test_a_cluster_with_two_labels_is_drawn_with_its_like():
    label = np.array([0, 0, 0, 1, 1, 0])
    clusters = np.array([0, 1, 2, 2, 3, 4])
    weights = np.concatenate(list(intervals.resample_weights(label, clusters, 40, 0)))
    np.testing.assert_array_equal(weights[:, 2:5], 1)  # alone in their strata
    np.testing.assert_array_equal(weights[:, [0, 1, 5]].sum(axis=1), 3)


def test_resamples_do_not_depend_on_the_chunks(monkeypatch):
    label, clusters = np.repeat([0, 1, 2], 5), np.arange(15)
    whole = np.concatenate(list(intervals.resample_weights(label, clusters, 30, 7)))
    monkeypatch.setattr(intervals, "_CELLS", 100)
    chunks = list(intervals.resample_weights(label, clusters, 30, 7))
    assert len(chunks) == 5
    np.testing.assert_array_equal(np.concatenate(chunks), whole)


def test_all_right_is_not_certainty():
    label = np.repeat([0, 1, 2], [87, 42, 27])
    found = intervals.bootstrap(make(label, sure_of(label)), resamples=200)
    assert found["accuracy"].exact
    # Clopper-Pearson from n of n is (alpha/2)^(1/n).
    assert found["accuracy"].low == pytest.approx(0.025 ** (1 / 156))
    assert found["accuracy"].high == 1
    assert found["per_class.normal.recall"].low == pytest.approx(0.025 ** (1 / 27))
    assert found["per_class.normal.auc"].low == pytest.approx(0.025 ** (1 / 27))
    assert found["per_class.normal.specificity"].low == pytest.approx(0.025 ** (1 / 129))
    share = 0.025 ** (1 / 42)
    assert found["per_class.malignant.f1"].low == pytest.approx(2 * share / (1 + share))
    lows = [found[f"per_class.{name}.recall"].low for name in CLASSES]
    assert found["recall"].low == pytest.approx(np.mean(lows))
    assert all(interval.low < interval.value == interval.high for interval in found.values())
    # Five copies of each are no more evidence.
    copies = make(np.repeat(label, 5), sure_of(np.repeat(label, 5)), copies=5)
    again = intervals.bootstrap(copies, resamples=200)
    assert again["accuracy"].low == pytest.approx(found["accuracy"].low)


def test_all_wrong_is_not_certainty_either():
    label = np.repeat([0, 1, 2], 10)
    found = intervals.bootstrap(make(label, sure_of((label + 1) % 3)), resamples=100)
    assert (found["accuracy"].low, found["accuracy"].exact) == (0, True)
    assert found["accuracy"].high == pytest.approx(1 - 0.025 ** (1 / 30))
    assert found["per_class.benign.f1"].high > 1 - 0.025 ** (1 / 20)


def test_one_image_says_next_to_nothing():
    rows = make([1] * 5, sure_of([1, 1, 1, 1, 0]), copies=5)
    found = intervals.bootstrap(rows, resamples=100)
    accuracy = found["accuracy"]
    assert accuracy.exact
    assert accuracy.value == pytest.approx(0.8)
    assert accuracy.low < 0.05
    assert accuracy.high > 0.97
    assert np.isnan(found["auc"].low)


def test_nothing_is_known_from_no_trials():
    never_called = make([0, 0, 1, 1], sure_of([0, 0, 0, 0]))
    found = intervals.bootstrap(never_called, resamples=100)["per_class.malignant.precision"]
    assert (found.value, found.low, found.high) == (0, 0, 1)


def test_exact_interval_against_scipy_and_a_published_example():
    for hits, trials in ((0, 10), (3, 10), (10, 10), (141, 156)):
        expected = stats.binomtest(hits, trials).proportion_ci(method="exact")
        assert intervals.exact(hits / trials, trials) == pytest.approx(
            (expected.low, expected.high), abs=1e-12
        )
    # Newcombe (Statistics in Medicine 17, 1998, table I): 81 of 263, Clopper-Pearson.
    assert intervals.exact(81 / 263, 263) == pytest.approx((0.2527, 0.3676), abs=5e-5)


def test_summary_is_strict_json_of_the_promised_shape(tmp_path):
    rng = np.random.default_rng(5)
    rows = study(rng, (20, 15, 0), (0.9, 0.6, 0.5), copies=3)
    document = results.assemble(
        {"test": rows},
        protocol="paper",
        checkpoint={"step": 7},
        leakage={},
        baselines={},
        resamples=200,
    )
    path = tmp_path / "results.json"
    atomic.write_json(path, document)
    assert json.loads(path.read_text(), parse_constant=pytest.fail) == document

    images, copies = document["parts"]["test"]["images"], document["parts"]["test"]["copies"]
    assert (images["count"], images["sources"]) == (35, 35)
    assert (copies["count"], copies["sources"]) == (105, 35)
    assert images["per_class"]["benign"]["support"] == 20
    assert images["per_class"]["normal"] == {
        **{score: {"value": None, "low": None, "high": None} for score in metrics.AVERAGED},
        "support": 0,
    }
    judged = present.renormalise(rows.originals())  # there are no normal images
    assert images["confusion"] == metrics.confusion(judged).tolist()
    means = document["parts"]["test"]["tta"]
    assert means.keys() == images.keys()
    assert (means["count"], means["sources"]) == (35, 35)
    judged = present.renormalise(rows).mean_of_views()
    assert means["confusion"] == metrics.confusion(judged).tolist()
    for score in ("accuracy", *metrics.AVERAGED):
        assert images[score].keys() == {"value", "low", "high"}
        assert images[score]["low"] <= images[score]["value"] <= images[score]["high"]
    assert document == results.assemble(
        {"test": rows},
        protocol="paper",
        checkpoint={"step": 7},
        leakage={},
        baselines={},
        resamples=200,
    )
    with pytest.raises(ValueError, match="not JSON compliant"):
        atomic.write_json(path, {"loss": float("nan")})
    assert json.loads(path.read_text()) == document


def test_near_copies_are_one_unit_of_evidence():
    rng = np.random.default_rng(2)
    label = np.repeat([0, 1, 2], 30)
    predicted = np.where(rng.random(90) < 0.7, label, (label + 1) % 3)
    once = intervals.bootstrap(make(label, sure_of(predicted)))["accuracy"]
    # Each image as three near-copies of other names, answered alike.
    many = make(label.repeat(3), sure_of(predicted.repeat(3)))
    units = {name: f"group {row // 3}" for row, name in enumerate(many.image)}
    grouped = many.in_units(units)
    together = intervals.bootstrap(grouped)["accuracy"]
    assert (together.low, together.high) == pytest.approx((once.low, once.high), abs=0.02)
    alone = intervals.bootstrap(many)["accuracy"]
    assert _width(alone) / _width(together) == pytest.approx(1 / np.sqrt(3), rel=0.15)
    # The units stay with their rows.
    assert grouped.take(np.array([5, 0])).unit == ["group 1", "group 0"]
    assert set(grouped.mean_of_views().unit) == set(units.values())
    assert results.summarize(grouped, resamples=10)["images"]["sources"] == 90


def test_where_most_resamples_lack_a_class_the_exact_interval_stands_in():
    """Eight runs with one image of a class each: hardly a resample has all eight."""
    runs = [
        Predictions(
            [f"a{run}", f"b{run}", f"c{run}"], [0] * 3, [0, 1, 2], sure_of([0, 1, run % 2 + 1])
        )
        for run in range(8)
    ]
    found = intervals.bootstrap_mean(runs, resamples=200)
    assert found["per_class.normal.recall"].exact
    assert found["per_class.normal.recall"].low == pytest.approx(intervals.exact(0.5, 8)[0])


def test_the_temperature_is_that_of_the_validation_part_and_used_on_the_others():
    rng = np.random.default_rng(7)
    rows = study(rng, (30, 20, 10), (0.7, 0.6, 0.6), copies=2)
    other = study(rng, (9, 9, 9), (0.5, 0.5, 0.5), copies=1)
    both = {"test": rows, "validation": other}
    arguments = {
        "protocol": "paper",
        "checkpoint": {},
        "leakage": {},
        "baselines": {},
        "resamples": 50,
    }
    document = results.assemble(both, **arguments)
    fitted = document["calibration"]
    assert fitted == {
        "temperature": calibration.fit_temperature(other),
        "fitted_on": "validation",
        "images": 27,
        "at_edge": False,
    }
    found = document["parts"]["test"]["calibration"]
    images = rows.originals()
    scaled = calibration.scale(images, fitted["temperature"])
    for entry, expected in ((found, images), (found["scaled"], scaled)):
        error = calibration.weighted_errors(expected, np.ones((1, 60)))
        assert entry["brier"]["value"] == pytest.approx(error["brier"].item())
        assert entry["ece"]["value"] == pytest.approx(error["ece"].item())
    assert document["parts"]["validation"]["calibration"]["scaled"] is None  # it was fitted there
    # The test part has no say in it, and without a validation part there is none.
    changed = {"test": other, "validation": other}
    assert results.assemble(changed, **arguments)["calibration"] == fitted
    alone = results.assemble({"test": rows}, **arguments)
    assert set(alone["calibration"].values()) == {None}
    assert alone["parts"]["test"]["calibration"]["scaled"] is None
    assert alone["parts"]["test"]["calibration"]["brier"] == found["brier"]


def test_a_summary_of_the_papers_size_takes_seconds():
    rng = np.random.default_rng(6)
    rows = study(rng, (87, 42, 27), (0.9, 0.9, 0.9), copies=5)
    start = time.process_time()
    results.assemble({"test": rows}, protocol="paper", checkpoint={}, leakage={}, baselines={})
    assert time.process_time() - start < 5
