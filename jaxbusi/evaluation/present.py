"""Parts in which a class does not occur at all, as in many hospitals' sets without normal images.

There the question is which of the classes that occur an image is of. The model's probability of an
absent class answers another one, so that the others are divided by their sum, p / (p + q), before
the answer is taken and anything is scored: what the model would say if it knew which classes there
are. The files of predictions keep what it said.

Where a single class occurs there is nothing to tell apart: divided by itself, every answer would be
right. Such a part is judged by the probabilities of all classes as they are.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation.predictions import Predictions


def judged_classes(label: np.ndarray) -> np.ndarray:
    """bool[3], between which classes rows of these labels, int[N], are judged: see the module."""
    present = np.isin(np.arange(len(CLASSES)), label)
    return present if present.sum() > 1 else np.ones(len(CLASSES), bool)


def renormalise(predictions: Predictions) -> Predictions:
    """The same rows with probabilities over the classes that occur, 0 for the others.

    A row whose probabilities of them are all 0 says nothing about them: they become equal, and the
    answer is the first in the order of `CLASSES`. Where all classes occur, or a single one, the
    rows are returned as they are.
    """
    judged = judged_classes(predictions.label)
    if judged.all():
        return predictions
    rows = np.where(judged, predictions.probabilities, 0.0)
    total = rows.sum(axis=1, keepdims=True)
    shares = np.divide(
        rows, total, out=np.tile(judged / judged.sum(), (len(rows), 1)), where=total > 0
    )
    return dataclasses.replace(predictions, probabilities=shares)


def describe(predictions: Predictions) -> dict[str, Any]:
    """What results.json says of the classes of a part.

    Args:
      predictions: the model's own, of the images themselves.

    Returns:
      classes: names of those that occur; renormalised: whether probabilities are scored as
      `renormalise` gives them; called_absent: how many images have the greatest probability, as the
      model gives it, for a class that does not occur.
    """
    called_absent = ~np.isin(predictions.predicted, predictions.label)
    return classes_of(predictions.label) | {"called_absent": int(called_absent.sum())}


def classes_of(label: np.ndarray) -> dict[str, Any]:
    """The `classes` and `renormalised` of `describe`, for rows of these labels, int[N]."""
    return {
        "classes": [CLASSES[index] for index in np.unique(label)],
        "renormalised": not bool(judged_classes(label).all()),
    }


def sentence(part: Mapping[str, Any], images: int | None = None) -> str:
    """Says that a part is renormalised; '' where it is not.

    Args:
      part: with `classes`, `renormalised` and, where `images` is given, `called_absent`.
      images: how many the part has.
    """
    if not part["renormalised"]:
        return ""
    [absent] = set(CLASSES) - set(part["classes"])
    words = (
        f"No {absent} images are in this part: probabilities are renormalised over "
        f"{' and '.join(part['classes'])}"
    )
    if images is not None:
        called = part["called_absent"]
        words += f"; {called} of {images} images would have been called {absent} otherwise"
    return f"{words}."
