"""How much of the task can be had without looking at tissue."""

import dataclasses
from collections.abc import Sequence

import numpy as np
from sklearn.ensemble import RandomForestClassifier
from sklearn.metrics import balanced_accuracy_score
from sklearn.model_selection import StratifiedGroupKFold

FOLDS = 5
_TREES = 30
_LEAF = 5  # Images; smaller leaves learn single sizes by heart.


def forest() -> RandomForestClassifier:
    """The learner of every rule that knows nothing of tissue, the same at every call."""
    return RandomForestClassifier(_TREES, min_samples_leaf=_LEAF, random_state=0)


@dataclasses.dataclass(frozen=True)
class Shortcut:
    """What a classifier reaches on features that have nothing to do with the lesion.

    Attributes:
      accuracy: share of images given the right class, each by a model that has not seen its group.
      spread: standard deviation of the accuracy over the folds.
      majority: share of the commonest class, what answering it every time reaches.
      balanced: mean of the recalls of the classes.
      chance: what `balanced` is without any information, one over the number of classes.
    """

    accuracy: float
    spread: float
    majority: float
    balanced: float
    chance: float


def measure_shortcut(
    features: np.ndarray, labels: Sequence[int], groups: Sequence[str]
) -> Shortcut | None:
    """Cross-validates a random forest on `features`, in five stratified folds with fixed seeds.

    Args:
      features: float[N, F], for instance width and height.
      labels: of the images.
      groups: images with the same name are kept in one fold; '' is an image on its own.

    Returns:
      None where it cannot be measured: one class only, or one with fewer independent images than
      folds.
    """
    target = np.asarray(labels)
    together = np.array([group or f" {row}" for row, group in enumerate(groups)], dtype=object)
    classes, counts = np.unique(target, return_counts=True)
    independent = [len(set(together[target == label])) for label in classes]
    if len(classes) < 2 or min(independent) < FOLDS:
        return None
    answers = np.empty_like(target)
    accuracies = []
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=0)
    _, numbers = np.unique(together.astype(str), return_inverse=True)
    for train, test in folds.split(features, target, numbers):
        answers[test] = forest().fit(features[train], target[train]).predict(features[test])
        accuracies.append(float(np.mean(answers[test] == target[test])))
    return Shortcut(
        accuracy=float(np.mean(answers == target)),
        spread=float(np.std(accuracies, ddof=1)),
        majority=float(counts.max() / len(target)),
        balanced=float(balanced_accuracy_score(target, answers)),
        chance=1 / len(classes),
    )
