import numpy as np
import pytest
from sklearn import metrics as sklearn_metrics

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import metrics
from jaxbusi.evaluation.predictions import Predictions


def make(label, probabilities):
    names = [f"{index:04}.png" for index in range(len(label))]
    return Predictions(names, np.zeros(len(label)), np.array(label), np.array(probabilities))


def sure_of(predicted):
    """Probabilities of 0.8 for the predicted class."""
    return np.full((len(predicted), 3), 0.1) + 0.7 * np.eye(3)[predicted]


def random_rows(count, classes=(0, 1, 2)):
    rng = np.random.default_rng(count)
    label = rng.choice(classes, count)
    # Rounded, so that ties occur.
    numbers = np.round(rng.dirichlet((1, 1, 1), count) + 0.7 * np.eye(3)[label], 1) + 1e-3
    return make(label, numbers / numbers.sum(axis=1, keepdims=True))


def test_the_papers_validation_confusion_by_hand():
    # The paper's validation set: 60/75 benign, 33/45 malignant, 26/35 normal right.
    table = np.array([[60, 10, 5], [8, 33, 4], [6, 3, 26]])
    label = np.repeat([0, 1, 2], table.sum(axis=1))
    predicted = np.concatenate([np.repeat([0, 1, 2], row) for row in table])
    rows = make(label, sure_of(predicted))
    np.testing.assert_array_equal(metrics.confusion(rows), table)
    scores = metrics.scores(rows)
    assert scores["accuracy"] == pytest.approx(119 / 155)
    recall = [60 / 75, 33 / 45, 26 / 35]
    precision = [60 / 74, 33 / 46, 26 / 35]
    f1 = [2 * 60 / (75 + 74), 2 * 33 / (45 + 46), 2 * 26 / (35 + 35)]
    for score, values in {"recall": recall, "precision": precision, "f1": f1}.items():
        assert scores[score] == pytest.approx(sum(values) / 3)
        for name, value in zip(CLASSES, values, strict=True):
            assert scores[f"per_class.{name}.{score}"] == pytest.approx(value)
    # Of the 80, 110 and 120 of the rest, 14, 13 and 9 were taken for the class.
    specificity = [66 / 80, 97 / 110, 111 / 120]
    assert scores["specificity"] == pytest.approx(sum(specificity) / 3)
    for name, value in zip(CLASSES, specificity, strict=True):
        assert scores[f"per_class.{name}.specificity"] == pytest.approx(value)
    # With the same two probabilities everywhere AUC is (sensitivity + specificity) / 2.
    for name, sensitive, specific in zip(CLASSES, recall, specificity, strict=True):
        assert scores[f"per_class.{name}.auc"] == pytest.approx((sensitive + specific) / 2)


def test_auc_by_hand_with_a_tie():
    # Malignant 0.9 and 0.4 against 0.4, 0.3, 0.1: pairs won 1+1+1 and 0.5+1+1 of 6.
    chance = np.array([0.9, 0.4, 0.4, 0.3, 0.1])
    rows = make([1, 1, 0, 0, 2], np.stack([1 - chance, chance, 0 * chance], axis=1))
    assert metrics.scores(rows)["per_class.malignant.auc"] == pytest.approx(5.5 / 6)


def test_a_class_absent_from_the_truth_is_left_out():
    rows = make([0, 0, 1, 1], sure_of([0, 2, 1, 1]))
    scores = metrics.scores(rows)
    for score in metrics.AVERAGED:
        assert np.isnan(scores[f"per_class.normal.{score}"])
    assert scores["precision"] == pytest.approx(1.0)
    assert scores["recall"] == pytest.approx((0.5 + 1) / 2)
    assert scores["f1"] == pytest.approx((2 / 3 + 1) / 2)
    assert scores["specificity"] == pytest.approx(1.0)  # of the two classes that are there
    # benign: 0.8, 0.1 against 0.1, 0.1.  malignant: 0.8, 0.8 against 0.1, 0.1.
    assert scores["auc"] == pytest.approx((3 / 4 + 1) / 2)


def test_a_class_never_predicted_has_precision_zero():
    scores = metrics.scores(make([0, 1, 2], sure_of([0, 1, 1])))
    assert scores["per_class.normal.precision"] == 0
    assert scores["per_class.normal.f1"] == 0
    assert scores["precision"] == pytest.approx((1 + 0.5 + 0) / 3)


def test_a_single_class_has_no_auc_and_no_specificity():
    scores = metrics.scores(make([1, 1, 1], sure_of([1, 1, 0])))
    assert np.isnan(scores["per_class.malignant.auc"])
    assert np.isnan(scores["auc"])
    assert np.isnan(scores["per_class.malignant.specificity"])
    assert np.isnan(scores["specificity"])
    assert scores["accuracy"] == pytest.approx(2 / 3)
    assert scores["recall"] == pytest.approx(2 / 3)


@pytest.mark.parametrize("rows", [random_rows(61), random_rows(50, (0, 1)), random_rows(9, (2,))])
def test_weights_of_one_are_the_plain_scores(rows):
    plain, weighted = metrics.scores(rows), metrics.weighted_scores(rows, np.ones((1, len(rows))))
    assert plain.keys() == weighted.keys()
    for key, value in plain.items():
        np.testing.assert_allclose(weighted[key], [value], rtol=1e-12, err_msg=key)


def test_weighted_scores_are_those_of_scikit_learn_on_the_same_resample():
    rows = random_rows(80)
    weights = np.random.default_rng(1).multinomial(80, np.full(80, 1 / 80), 5).astype(float)
    ours = metrics.weighted_scores(rows, weights)
    for index, weight in enumerate(weights):
        table = sklearn_metrics.precision_recall_fscore_support(
            rows.label, rows.predicted, sample_weight=weight, zero_division=0
        )
        auc = [
            sklearn_metrics.roc_auc_score(
                rows.label == label, rows.probabilities[:, label], sample_weight=weight
            )
            for label in range(3)
        ]
        specificity = [
            sklearn_metrics.recall_score(
                rows.label == label, rows.predicted == label, pos_label=0, sample_weight=weight
            )
            for label in range(3)
        ]
        expected = sklearn_metrics.accuracy_score(rows.label, rows.predicted, sample_weight=weight)
        assert ours["accuracy"][index] == pytest.approx(expected, abs=1e-12)
        columns = {"precision": table[0], "recall": table[1], "f1": table[2]}
        columns |= {"specificity": specificity, "auc": auc}
        assert columns.keys() == set(metrics.AVERAGED)
        for score, values in columns.items():
            assert ours[score][index] == pytest.approx(np.mean(values), abs=1e-12)
            for name, value in zip(CLASSES, values, strict=True):
                key = metrics.class_key(name, score)
                assert ours[key][index] == pytest.approx(value, abs=1e-12)


def test_weighting_is_repeating_rows():
    rows = random_rows(30)
    times = np.random.default_rng(2).integers(1, 4, 30)
    repeated = np.repeat(np.arange(30), times)
    expected = metrics.scores(make(rows.label[repeated], rows.probabilities[repeated]))
    ours = metrics.weighted_scores(rows, times[None].astype(float))
    for key, value in expected.items():
        np.testing.assert_allclose(ours[key], [value], rtol=1e-12, err_msg=key)
