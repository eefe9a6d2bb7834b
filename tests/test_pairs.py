import time

import numpy as np
import pytest
from scipy import stats

from jaxbusi.evaluation import intervals, metrics, pairs
from jaxbusi.evaluation.predictions import Predictions


def make(label, predicted, names=None):
    names = [f"{row:04}.png" for row in range(len(label))] if names is None else list(names)
    rows = np.full((len(label), 3), 0.1) + 0.7 * np.eye(3)[predicted]
    return Predictions(names, np.zeros(len(names)), np.asarray(label), rows)


def benign(right, names=None):
    """Benign images, right where `right`, else called malignant."""
    return make(np.zeros(len(right), int), 1 - np.asarray(right, int), names)


def two_arms(count, seed, agree=0.8):
    """Two arms that often give the same answer, on `count` images of three classes."""
    rng = np.random.default_rng(seed)
    label = rng.integers(0, 3, count)
    one = np.where(rng.random(count) < 0.7, label, rng.integers(0, 3, count))
    other = np.where(rng.random(count) < agree, one, rng.integers(0, 3, count))
    return make(label, one), make(label, other)


def test_mcnemar_and_the_difference_against_a_published_example():
    # Fagerland, Lydersen and Laake (BMC Medical Research Methodology 13:91, 2013), table 1:
    # 21 children, 1 and 7 discordant; exact conditional p = 0.070.
    one = benign([1] + [1] + [0] * 7 + [0] * 12)
    other = benign([1] + [0] + [1] * 7 + [0] * 12)
    found = pairs.compare([one], [other])
    assert found["mcnemar"]["first"] == 1
    assert found["mcnemar"]["second"] == 7
    assert found["mcnemar"]["p"] == pytest.approx(0.0703, abs=5e-5)
    assert found["per_seed"] == [found["mcnemar"]]
    difference = found["difference"]["accuracy"]
    assert difference["mean"] == pytest.approx(-6 / 21)
    # The normal approximation of a difference of paired shares; an image is 0.048.
    error = np.sqrt(8 - 6**2 / 21) / 21
    assert difference["low"] == pytest.approx(-6 / 21 - 1.96 * error, abs=0.048)
    assert difference["high"] == pytest.approx(-6 / 21 + 1.96 * error, abs=0.048)


def test_the_interval_agrees_with_scipys_paired_bootstrap():
    rng = np.random.default_rng(1)
    one = rng.random(100) < 0.8
    other = np.where(rng.random(100) < 0.7, one, rng.random(100) < 0.6)
    ours = pairs.compare([benign(one)], [benign(other)], resamples=9999)["difference"]["accuracy"]
    theirs = stats.bootstrap(
        (one.astype(float), other.astype(float)),
        lambda a, b, axis=-1: a.mean(axis=axis) - b.mean(axis=axis),
        paired=True,
        method="percentile",
        rng=0,
    ).confidence_interval
    assert ours["low"] == pytest.approx(theirs.low, abs=0.0101)  # one image is 0.01
    assert ours["high"] == pytest.approx(theirs.high, abs=0.0101)
    assert not ours["exact"]


def test_the_differences_are_those_of_the_scores():
    seeds = [two_arms(90, seed) for seed in (0, 1, 2)]
    found = pairs.compare(*zip(*seeds, strict=True), resamples=100)
    for key in pairs.SCORES:
        expected = [metrics.scores(one)[key] - metrics.scores(other)[key] for one, other in seeds]
        difference = found["difference"][key]
        assert difference["mean"] == pytest.approx(np.mean(expected))
        assert difference["low"] < np.mean(expected) < difference["high"]
        assert difference["values"] == pytest.approx(expected)
        assert difference["sd"] == pytest.approx(np.std(expected, ddof=1))
    assert found["sources"] == 90


def test_pairing_is_what_makes_the_difference_sharp():
    one, other = two_arms(150, 3, agree=0.9)
    paired = pairs.compare([one], [other])["difference"]["accuracy"]
    apart = [intervals.bootstrap(rows)["accuracy"] for rows in (one, other)]
    width = np.hypot(*(interval.high - interval.low for interval in apart))
    assert paired["high"] - paired["low"] < 0.6 * width


def test_an_image_of_several_seeds_is_no_more_evidence():
    one, other = two_arms(80, 4)
    once = pairs.compare([one], [other], resamples=500)
    thrice = pairs.compare([one] * 3, [other] * 3, resamples=500)
    assert thrice["mcnemar"] == once["mcnemar"]
    for key in pairs.SCORES:
        for end in ("mean", "low", "high"):
            assert thrice["difference"][key][end] == pytest.approx(once["difference"][key][end])
    # Other images are: with three times as many the interval narrows, and p falls.
    names = [[f"{seed}/{name}" for name in one.image] for seed in range(3)]
    first = [make(one.label, one.predicted, name) for name in names]
    second = [make(other.label, other.predicted, name) for name in names]
    more = pairs.compare(first, second, resamples=500)
    assert more["mcnemar"]["first"] == 3 * once["mcnemar"]["first"]
    widths = [
        found["difference"]["accuracy"]["high"] - found["difference"]["accuracy"]["low"]
        for found in (more, once)
    ]
    assert widths[0] / widths[1] == pytest.approx(1 / np.sqrt(3), rel=0.15)


def test_an_image_votes_once_for_the_arm_that_was_right_more_often():
    # a: 2 to 1 for the first arm; b: 1 to 1; c: 1 for the second; d: both right.
    ones = [benign([1, 1, 0, 1], "abcd"), benign([1, 0, 0, 1], "abcd"), benign([0], "a")]
    others = [benign([0, 0, 1, 1], "abcd"), benign([0, 1, 0, 1], "abcd"), benign([1], "a")]
    found = pairs.compare(ones, others, resamples=50)
    assert found["mcnemar"] == {"first": 1, "second": 1, "p": 1.0}
    counts = [(row["first"], row["second"]) for row in found["per_seed"]]
    assert counts == [(2, 1), (1, 1), (0, 1)]


def test_the_vote_keeps_its_level_where_pooled_counts_do_not():
    # Two arms that are equally good; each image favours one of them, alike in all five seeds.
    rng = np.random.default_rng(5)
    votes, pooled, studies = 0, 0, 300
    for _ in range(studies):
        taste = rng.choice([-1, 1], 40)
        balance = (rng.random((5, 40)) < 0.8) * taste
        votes += pairs.sign_test(balance.sum(axis=0))["p"] < 0.05
        pooled += pairs.sign_test(balance.ravel())["p"] < 0.05
    assert votes / studies <= 0.07
    assert pooled / studies > 0.2


def test_arms_that_agree_everywhere_are_not_certainly_equal():
    label = np.repeat([0, 1, 2], [30, 20, 10])
    rows = make(label, np.where(np.arange(60) % 4, label, 0))
    found = pairs.compare([rows], [rows], resamples=50)
    assert found["mcnemar"] == {"first": 0, "second": 0, "p": 1.0}
    # None of n: Clopper-Pearson's upper end is 1 - (alpha/2)^(1/n).
    for key, trials in {"accuracy": 60, "precision": 10, "recall": 10}.items():
        end = 1 - 0.025 ** (1 / trials)
        difference = found["difference"][key]
        assert (difference["mean"], difference["sd"], difference["exact"]) == (0, None, True)
        assert (difference["low"], difference["high"]) == pytest.approx((-end, end))


def test_pairs_are_of_seeds_and_images_that_both_have():
    one, other = two_arms(20, 6)
    turned = other.take(np.arange(20)[::-1])
    elsewhere = make(other.label, other.predicted, [f"x{name}" for name in other.image])
    arms = {
        "a": {0: {"test": one, "external": one}, 1: {"test": one}},
        "b": {0: {"test": turned}, 2: {"test": other}},
        "c": {0: {"test": elsewhere}, 1: {"test": other, "external": one}},
        "d": {},
    }
    found = pairs.compare_arms(arms, resamples=50)
    listed = [(row["part"], row["first"], row["second"], row["splits"]) for row in found]
    assert listed == [
        ("test", "a", "b", 1),
        ("test", "a", "c", 1),
        ("test", "b", "c", 0),
        ("external", "a", "c", 0),
    ]
    assert found[2]["mcnemar"] is None
    expected = metrics.scores(one)["accuracy"] - metrics.scores(other)["accuracy"]
    assert found[0]["difference"]["accuracy"]["mean"] == pytest.approx(expected)
    assert found[0]["mcnemar"] == found[1]["mcnemar"]


def test_a_gap_is_the_difference_of_means_and_moves_shared_images_together():
    one, other = two_arms(120, 3)
    paired = pairs.compare([one], [other])["difference"]["accuracy"]
    same = pairs.gap([one], [other])["difference"]["accuracy"]
    for end in ("mean", "low", "high"):
        assert same[end] == pytest.approx(paired[end])
    elsewhere = make(other.label, other.predicted, [f"x{name}" for name in other.image])
    apart = pairs.gap([one, one], [elsewhere])["difference"]["accuracy"]
    assert apart["mean"] == pytest.approx(paired["mean"])
    # Variances add where nothing is shared.
    single = [intervals.bootstrap(rows)["accuracy"] for rows in (one, other)]
    wanted = sum((interval.high - interval.low) ** 2 for interval in single) ** 0.5
    assert apart["high"] - apart["low"] == pytest.approx(wanted, rel=0.1)


def test_a_study_of_four_arms_and_five_seeds_takes_seconds():
    arms = {
        name: {seed: {"test": two_arms(156, seed)[index % 2]} for seed in range(5)}
        for index, name in enumerate("abcd")
    }
    start = time.process_time()
    assert len(pairs.compare_arms(arms)) == 6
    assert time.process_time() - start < 6
