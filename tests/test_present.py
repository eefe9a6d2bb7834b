"""Parts without a class: the same numbers as a binary problem, through everything that scores."""

import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxbusi.evaluation import (
    baselines,
    calibration,
    comparison,
    metrics,
    pairs,
    present,
    results,
    selective,
)
from jaxbusi.evaluation.predictions import Predictions


def make(label, probabilities, names=None):
    names = [f"{row:04}.png" for row in range(len(label))] if names is None else names
    return Predictions(names, np.zeros(len(label)), np.array(label), np.array(probabilities))


@pytest.fixture
def rows():
    """Benign and malignant images, of which many are called normal."""
    rng = np.random.default_rng(3)
    label = rng.integers(0, 2, 60)
    return make(label, rng.dirichlet((1, 1, 2), 60) * 0.7 + 0.3 * np.eye(3)[label])


def binary(rows):
    """Probability of malignant among the two classes, float64[N]."""
    benign, malignant, _ = rows.probabilities.T
    return malignant / (benign + malignant)


def assemble(predictions, **changes):
    given = {"protocol": "paper", "checkpoint": {}, "leakage": {}, "baselines": {}}
    return results.assemble(predictions, **given, resamples=50, **changes)


def test_probabilities_are_divided_by_hand():
    given = make([0, 1, 1, 0], [[0.2, 0.1, 0.7], [0.1, 0.3, 0.6], [0, 0, 1], [0.6, 0.4, 0]])
    rows = present.renormalise(given)
    np.testing.assert_allclose(
        rows.probabilities, [[2 / 3, 1 / 3, 0], [1 / 4, 3 / 4, 0], [1 / 2, 1 / 2, 0], [0.6, 0.4, 0]]
    )
    assert rows.predicted.tolist() == [0, 1, 0, 0]  # of equal ones the first
    assert given.predicted.tolist() == [2, 2, 2, 0]  # nothing is lost
    assert rows.image == given.image
    described = present.describe(given)
    assert described == {
        "classes": ["benign", "malignant"],
        "renormalised": True,
        "called_absent": 3,
    }
    assert present.sentence(described, 4) == (
        "No normal images are in this part: probabilities are renormalised over benign and "
        "malignant; 3 of 4 images would have been called normal otherwise."
    )


def test_all_classes_and_a_single_one_stay_as_they_are():
    shares = [[0.2, 0.1, 0.7], [0.1, 0.3, 0.6], [0.5, 0.3, 0.2]]
    for label, classes, absent in (
        ([0, 1, 2], ["benign", "malignant", "normal"], 0),
        # Divided by itself every answer would be right.
        ([1, 1, 1], ["malignant"], 3),
    ):
        rows = make(label, shares)
        assert present.renormalise(rows) is rows
        described = present.describe(rows)
        assert described == {"classes": classes, "renormalised": False, "called_absent": absent}
        assert present.sentence(described, 3) == ""
        part = assemble({"test": rows})["parts"]["test"]
        assert part["images"]["accuracy"]["value"] == metrics.scores(rows)["accuracy"]


def test_results_are_those_of_the_binary_problem(rows):
    part = assemble({"external": rows})["parts"]["external"]
    chance, malignant = binary(rows), rows.label == 1
    called = chance > 0.5
    images = part["images"]
    assert part["classes"] == ["benign", "malignant"]
    assert part["renormalised"] is True
    assert part["called_absent"] == int((rows.probabilities.argmax(axis=1) == 2).sum()) > 5
    table = sklearn_metrics.confusion_matrix(malignant, called)
    assert images["confusion"] == [[*table[0].tolist(), 0], [*table[1].tolist(), 0], [0, 0, 0]]
    assert images["accuracy"]["value"] == pytest.approx(np.mean(called == malignant))
    precision, recall, f1, _ = sklearn_metrics.precision_recall_fscore_support(
        malignant, called, average="macro"
    )
    for score, value in {"precision": precision, "recall": recall, "f1": f1}.items():
        assert images[score]["value"] == pytest.approx(value)
    auc = sklearn_metrics.roc_auc_score(malignant, chance)
    assert images["auc"]["value"] == pytest.approx(auc)
    assert images["per_class"]["benign"]["auc"]["value"] == pytest.approx(auc)
    assert images["per_class"]["malignant"]["specificity"]["value"] == pytest.approx(
        images["per_class"]["benign"]["recall"]["value"]
    )
    assert images["per_class"]["normal"]["recall"]["value"] is None
    assert images["accuracy"]["low"] <= images["accuracy"]["value"] <= images["accuracy"]["high"]
    # Brier's own definition sums over both classes.
    brier = 2 * sklearn_metrics.brier_score_loss(malignant, chance)
    assert part["calibration"]["brier"]["value"] == pytest.approx(brier)
    assert min(entry["confidence"] for entry in part["calibration"]["bins"]) >= 0.5
    assert part["selective"][0]["accuracy"]["value"] == images["accuracy"]["value"]
    half = part["selective"][-1]
    surest = np.maximum(chance, 1 - chance) >= half["threshold"] - 1e-12
    assert half["accuracy"]["value"] == pytest.approx(np.mean((called == malignant)[surest]))
    false, true, _ = sklearn_metrics.roc_curve(malignant, chance, drop_intermediate=False)
    for point in part["operating_points"]:
        if point["fixed"] == "specificity":
            assert point["best"]["value"] == pytest.approx(max(true[1 - false >= point["at"]]))


def test_a_temperature_moves_the_logits_of_the_classes_that_are_there(rows):
    """Two-class softmax of the scaled logits; the absent class gets nothing, however flat."""
    temperature = 20.0
    judged = results.judge_probabilities(rows, temperature, resamples=20)
    benign, malignant, _ = np.log(rows.probabilities).T
    chance = 1 / (1 + np.exp((benign - malignant) / temperature))
    brier = 2 * np.mean((chance - (rows.label == 1)) ** 2)
    assert judged["calibration"]["scaled"]["brier"]["value"] == pytest.approx(brier)


def test_scaling_keeps_near_copies_one_unit(rows):
    units = rows.in_units(dict.fromkeys(rows.image[:30], "group"))
    assert calibration.scale(units, 2.0).unit == units.unit


def test_copies_and_views_are_renormalised_before_their_mean():
    shares = np.array([[0.2, 0.1, 0.7], [0.3, 0.6, 0.1], [0.1, 0.8, 0.1], [0.1, 0.8, 0.1]])
    rows = Predictions(["a", "a", "b", "b"], [0, 1, 0, 1], [0, 0, 1, 1], shares)
    kinds = results.kinds_of_rows(rows)
    np.testing.assert_allclose(kinds["tta"].probabilities[0], [(2 / 3 + 1 / 3) / 2, 0.5, 0])
    assert kinds["images"].predicted.tolist() == [0, 1]
    assert kinds["copies"].predicted.tolist() == [0, 1, 1, 1]


def test_a_row_without_any_probability_of_a_class_that_is_there_breaks_nothing():
    rows = make([0, 1, 0, 1], [[0, 0, 1], [0, 0, 1], [0.5, 0.2, 0.3], [0.1, 0.8, 0.1]])
    part = assemble({"external": rows})["parts"]["external"]
    assert part["images"]["confusion"] == [[2, 0, 0], [1, 1, 0], [0, 0, 0]]
    assert part["calibration"]["brier"]["value"] is not None
    coverage, accuracy, _ = selective.curve(present.renormalise(rows))
    assert np.isfinite(coverage).all()
    assert np.isfinite(accuracy).all()


def test_arms_of_a_study_are_summed_and_compared_in_the_same_way(rows):
    rng = np.random.default_rng(4)
    other = make(rows.label, rng.dirichlet((1, 1, 2), len(rows)))
    runs = [{"external": rows}, {"external": other}]
    arm = comparison.summarize_arm(runs, resamples=50)["external"]
    values = arm["images"]["scores"]["accuracy"]["values"]
    one, two = ((binary(part) > 0.5) == (part.label == 1) for part in (rows, other))
    assert values == pytest.approx([one.mean(), two.mean()])
    assert (arm["classes"], arm["renormalised"]) == (["benign", "malignant"], True)
    assert np.sum(arm["images"]["confusion"], axis=0)[2] == 0
    [pair] = pairs.compare_arms({"a": {0: runs[0]}, "b": {0: runs[1]}}, resamples=50)
    assert pair["difference"]["accuracy"]["mean"] == pytest.approx(one.mean() - two.mean())
    assert pair["mcnemar"]["first"] == int((one & ~two).sum())
    # Arms that were tested on other images: the difference of their means.
    elsewhere = make(other.label, other.probabilities, [f"x{name}" for name in other.image])
    [gap] = pairs.compare_arms({"a": {0: runs[0]}, "b": {1: {"external": elsewhere}}}, resamples=50)
    assert gap["difference"]["accuracy"]["mean"] == pytest.approx(one.mean() - two.mean())


def test_rules_that_know_no_tissue_answer_with_a_class_that_is_there():
    """Most training images are normal, the sizes are a normal's, and so is the nearest image."""
    rng = np.random.default_rng(0)
    label = np.array([2] * 30 + [1] * 20 + [0] * 10)
    pixels = rng.normal(size=(60, 64 * 64)).astype(np.float32)
    pixels /= np.linalg.norm(pixels, axis=1, keepdims=True)
    names = [f"{row}" for row in range(60)]
    train = baselines.Seen(names, label, np.full((60, 2), 100.0), pixels)
    # Nearest is the normal image 0, and after it the malignant 30 or the benign 50.
    near = pixels[0] + 0.5 * pixels[[30, 50]]
    test = baselines.Seen(["x", "y"], np.array([1, 0]), np.full((2, 2), 100.0), near)
    scored = baselines.summarize(train, test, {}, resamples=20)
    assert scored["majority"]["recall"].value == 0.5  # malignant, every time
    assert scored["majority"]["accuracy"].value == 0.5
    assert scored["image_size"]["accuracy"].value == 0.5
    assert scored["pixel_neighbour"]["accuracy"].value == 1.0
