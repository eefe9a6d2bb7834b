"""Scores of a set of predictions, from scikit-learn; and the same for many resamples at once.

Both give one flat dictionary whose keys are paths in results.json: `accuracy`, the macro averages
`precision`, `recall`, `specificity`, `f1`, `auc`, and
`per_class.<class>.{precision,recall,specificity,f1,auc}`.

Where a class is missing:

* absent from the truth: its scores are NaN (null in JSON) and it is left out of the macro
  averages, which then average the classes that are there;
* in the truth but never predicted: its precision is 0 (scikit-learn's `zero_division=0`), so that
  ignoring a class never raises an average;
* the only class in the truth: specificity and AUC are NaN, as there is no rest to tell it from.

`auc` ranks each class against the rest by its own probability (one-vs-rest), averaged without
weights. `recall` of a class is its sensitivity; `specificity` of a class is the share of the rest
that is not called so, TN / (TN + FP): scikit-learn's recall with the rest as the positive class.
"""

from collections.abc import Mapping

import numpy as np
from sklearn import metrics as sklearn_metrics

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation.predictions import Predictions

AVERAGED = ("precision", "recall", "specificity", "f1", "auc")
"""Scores of one class each, and by that name alone their macro average."""


def class_key(name: str, score: str) -> str:
    """The key of one class's score."""
    return f"per_class.{name}.{score}"


def reaches(share: np.ndarray, least: float) -> np.ndarray:
    """bool, of the shape of `share`: 0.9 of ten images are nine, whatever the floats say."""
    return share >= least - 1e-9


def confusion(predictions: Predictions) -> np.ndarray:
    """int64[3, 3] counts: rows are the truth, columns the prediction, in the order of CLASSES."""
    return sklearn_metrics.confusion_matrix(
        predictions.label, predictions.predicted, labels=range(len(CLASSES))
    )


def scores(predictions: Predictions) -> dict[str, float]:
    """Every score of `predictions`; NaN where it is not defined (see the module)."""
    label, predicted = predictions.label, predictions.predicted
    result = {"accuracy": float(sklearn_metrics.accuracy_score(label, predicted))}
    precision, recall, f1, support = sklearn_metrics.precision_recall_fscore_support(
        label, predicted, labels=range(len(CLASSES)), zero_division=0
    )
    both = [0 < number < len(predictions) for number in support]  # the class, and a rest
    specificity = [
        sklearn_metrics.recall_score(label == index, predicted == index, pos_label=0)
        if both[index]
        else np.nan
        for index in range(len(CLASSES))
    ]
    auc = [
        sklearn_metrics.roc_auc_score(label == index, predictions.probabilities[:, index])
        if both[index]
        else np.nan
        for index in range(len(CLASSES))
    ]
    table = dict(zip(AVERAGED, (precision, recall, specificity, f1, auc), strict=True))
    present = support > 0
    for score, values in table.items():
        values = np.where(present, values, np.nan)
        result[score] = float(values[present].mean())
        for name, value in zip(CLASSES, values, strict=True):
            result[class_key(name, score)] = float(value)
    return result


def weighted_scores(predictions: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`scores` for R weightings of the rows at once, as scikit-learn's `sample_weight` would.

    Args:
      predictions: N rows.
      weights: float64[R, N], how often each row counts.

    Returns:
      float64[R] per key of `scores`; NaN where a weighting leaves nothing of a class of the truth.
    """
    label = predictions.label
    result = weighted_answers(predictions, weights)
    auc = np.stack(
        [
            weighted_auc(label == index, predictions.probabilities[:, index], weights)
            for index in range(len(CLASSES))
        ],
        axis=1,
    )
    return result | _by_class({"auc": auc}, np.unique(label))


def weighted_answers(predictions: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """`weighted_scores` but for those that need the probabilities: all but AUC, in less time."""
    label = predictions.label
    count = len(CLASSES)
    cells = np.eye(count * count)[label * count + predictions.predicted]
    tables = (weights @ cells).reshape(-1, count, count)
    hits = np.diagonal(tables, axis1=1, axis2=2)
    truth, called = tables.sum(axis=2), tables.sum(axis=1)
    with np.errstate(invalid="ignore"):  # 0/0 is the NaN or the 0 promised above.
        precision = np.where(called > 0, hits / np.maximum(called, 1e-300), 0.0)
        recall = hits / truth
        rest = truth.sum(axis=1, keepdims=True) - truth
        specificity = (rest - called + hits) / rest
        f1 = 2 * hits / (truth + called)
        accuracy = hits.sum(axis=1) / weights.sum(axis=1)
    table = {"precision": precision, "recall": recall, "specificity": specificity, "f1": f1}
    return {"accuracy": accuracy} | _by_class(table, np.unique(label))


def _by_class(table: Mapping[str, np.ndarray], present: np.ndarray) -> dict[str, np.ndarray]:
    """float64[R, 3] per score -> float64[R] per key; `present` are the classes of the truth."""
    result = {}
    for score, values in table.items():
        result[score] = values[:, present].mean(axis=1)
        for index, name in enumerate(CLASSES):
            there = values[:, index] if index in present else np.full(len(values), np.nan)
            result[class_key(name, score)] = there
    return result


def weighted_auc(positive: np.ndarray, score: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Area under the ROC curve for R weightings: P(positive above negative), ties count half.

    Args:
      positive: bool[N].
      score: float64[N], higher means more positive.
      weights: float64[R, N].

    Returns:
      float64[R]; NaN where the positives or the negatives have no weight.
    """
    # Sorted once for all weightings: only the weights differ between resamples.
    order = np.argsort(score, kind="stable")
    starts = np.flatnonzero(np.diff(score[order], prepend=-np.inf))  # one per distinct score
    weights = weights[:, order]
    positives = np.add.reduceat(weights * positive[order], starts, axis=1)
    negatives = np.add.reduceat(weights * ~positive[order], starts, axis=1)
    below = np.cumsum(negatives, axis=1) - negatives / 2
    pairs = positives.sum(axis=1) * negatives.sum(axis=1)
    with np.errstate(invalid="ignore"):
        return (positives * below).sum(axis=1) / np.where(pairs > 0, pairs, np.nan)
