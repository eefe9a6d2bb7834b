"""How often the run was right about its own test images when it was about as sure."""

from pathlib import Path
from typing import Any

import numpy as np

from jaxbusi.evaluation import intervals
from jaxbusi.evaluation.predictions import Predictions

PART = "test"

MOST, LEAST = 50, 10
"""Images that are looked at: a third of all, within these numbers. 50 give ±14 points at most."""


class Record:
    """The answers of the test part, by how sure they were."""

    def __init__(self, confidence: np.ndarray, right: np.ndarray):
        """Takes float64[N], the largest probability of each image, and bool[N]."""
        self._confidence = confidence
        self._right = right

    @classmethod
    def read(cls, workdir: Path, temperature: float) -> "Record | None":
        """Of a run, at the temperature of its probabilities; None where it has no predictions.

        Raises:
          UserError: the file is there and damaged.
        """
        path = workdir / f"predictions_{PART}.csv"
        if not path.exists():
            return None
        rows = Predictions.read_csv(path).originals()
        probabilities = calibrate(rows.probabilities, temperature)
        return cls(probabilities.max(axis=1), rows.predicted == rows.label)

    def near(self, confidence: float) -> dict[str, Any]:
        """Of the images whose answers were the most nearly as sure, how many were right.

        Returns:
          part, images, correct, and value, low and high of their share (exact, 95 %).
        """
        count = min(MOST, max(LEAST, len(self._confidence) // 3))
        chosen = np.argsort(np.abs(self._confidence - confidence), kind="stable")[:count]
        correct, images = int(self._right[chosen].sum()), len(chosen)
        low, high = intervals.exact(correct / images, images)
        return {
            "part": PART,
            "images": images,
            "correct": correct,
            "value": correct / images,
            "low": low,
            "high": high,
        }


def calibrate(probabilities: np.ndarray, temperature: float) -> np.ndarray:
    """The probabilities at a temperature: the softmax of logits that are divided by it.

    Args:
      probabilities: float[..., C], as the model gives them.
      temperature: above 0.

    Returns:
      float64[..., C].
    """
    scaled = probabilities.astype(np.float64) ** (1 / temperature)
    return scaled / scaled.sum(axis=-1, keepdims=True)
