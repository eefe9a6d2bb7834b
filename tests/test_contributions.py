"""What the branches contribute, where the answer is known by hand."""

import numpy as np
import pytest

from jaxbusi.explain import contributions
from jaxbusi.explain.averages import mean_over, ratio_intervals


def value(**worth):
    """Values of coalitions by their branches' letters, as arrays of one element."""
    return {frozenset(name.strip("_")): np.array([number]) for name, number in worth.items()}


def test_two_branches_by_hand():
    found = contributions.shapley_values(value(_=0.2, a=0.5, b=0.3, ab=0.9))
    # ½[v(a) - v()] + ½[v(ab) - v(b)], and the same for b
    np.testing.assert_allclose(found["a"], 0.5 * 0.3 + 0.5 * 0.6)
    np.testing.assert_allclose(found["b"], 0.5 * 0.1 + 0.5 * 0.4)


def test_three_branches_over_all_their_orders():
    """The glove game: a and b hold left gloves, c the right one; a pair is worth 1."""
    worth = value(_=0.0, a=0.0, b=0.0, c=0.0, ab=0.0, ac=1.0, bc=1.0, abc=1.0)
    found = contributions.shapley_values(worth)
    assert {name: phi.item() for name, phi in found.items()} == pytest.approx(
        {"a": 1 / 6, "b": 1 / 6, "c": 2 / 3}
    )


def test_a_single_branch_contributes_everything():
    found = contributions.shapley_values(value(_=0.3, a=0.9))
    np.testing.assert_allclose(found["a"], 0.6)


def test_a_branch_that_the_head_does_not_read_contributes_nothing():
    rng = np.random.default_rng(0)
    features = {"read": rng.normal(size=(5, 2)), "unread": rng.normal(size=(5, 4))}
    averages = {name: rows.mean(0) for name, rows in features.items()}

    def head(given):
        odds = np.exp(given["read"] @ np.ones((2, 3)) * np.arange(3))
        return odds / odds.sum(1, keepdims=True)

    values = contributions.coalition_values(head, features, averages)
    found = contributions.shapley_values(values)
    assert np.abs(found["unread"]).max() == 0
    np.testing.assert_allclose(
        found["read"], head(features) - head({"read": np.tile(averages["read"], (5, 1))})
    )


def test_sums_over_images_by_hand():
    both, a, b, none = (frozenset(x) for x in ("ab", "a", "b", ""))
    start = np.full((2, 3), 1 / 3)
    end = np.array([[0.8, 0.1, 0.1], [0.2, 0.7, 0.1]])
    # a moves all of it, b nothing: v does not depend on b.
    values = {none: start, a: end, b: start, both: end}
    found = contributions.summarize(values, np.array([0, 2]), ["x", "y"], seed=0)
    assert found["shares"]["all"]["a"]["value"] == pytest.approx(1)
    assert found["shares"]["benign"]["b"]["value"] == pytest.approx(0)
    assert found["moves"]["benign"]["a"]["value"] == pytest.approx(0.8 - 1 / 3)
    assert found["moves"]["normal"]["a"]["value"] == pytest.approx(0.1 - 1 / 3)
    assert found["moves"]["all"]["a"]["value"] == pytest.approx(0.9 / 2 - 1 / 3)
    assert found["moves"]["malignant"]["a"]["value"] is None  # no such image
    assert found["alone"]["all"]["a"]["accuracy"]["value"] == 0.5
    assert found["alone"]["all"]["a+b"]["probability"]["value"] == pytest.approx(0.45)
    assert found["counts"] == {"all": 2, "benign": 1, "malignant": 0, "normal": 1}
    unknown = contributions.summarize(values, None, ["x", "y"], seed=0)
    assert unknown["towards"] == "answer"
    assert unknown["alone"] is None
    assert unknown["moves"]["malignant"]["a"]["value"] == pytest.approx(0.7 - 1 / 3)


def test_images_of_one_unit_are_one_piece_of_evidence():
    values = np.tile([0.0, 1.0], 20)
    label, apart = np.zeros(40, int), [str(row) for row in range(40)]
    together = [str(row // 20) for row in range(40)]
    wide, narrow = (
        ratio_intervals({"x": mean_over(values)}, label, units, seed=0)["x"]
        for units in (np.repeat(["a", "b"], 20)[np.argsort(np.argsort(values))].tolist(), apart)
    )
    assert wide["value"] == narrow["value"] == 0.5
    assert (wide["low"], wide["high"]) == (0, 1)
    assert 0.3 < narrow["low"] < narrow["high"] < 0.7
    halves = ratio_intervals({"x": mean_over(values)}, label, together, seed=0)["x"]
    assert (halves["low"], halves["high"]) == (0.5, 0.5)  # both units are alike
    for classes, units in ((label, 40 * ["a"]), (np.repeat([0, 1], 20), together)):
        one = ratio_intervals({"x": mean_over(values)}, classes, units, seed=0)["x"]
        assert (one["value"], one["low"], one["high"]) == (0.5, None, None)
    sure = ratio_intervals({"x": mean_over(values**0)}, label, apart, seed=0, of_hits=["x"])["x"]
    assert sure["exact"]
    assert sure["low"] == pytest.approx(0.025 ** (1 / 40))
