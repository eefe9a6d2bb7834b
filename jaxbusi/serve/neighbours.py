"""The training images that a run finds the most like an image."""

from collections.abc import Mapping
from typing import Any

import cv2
import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.data.store import ImageStore
from jaxbusi.errors import one_line
from jaxbusi.explain.training_features import TrainingFeatures
from jaxbusi.serve.pictures import png, within

COUNT = 5
_LONGEST = 160  # Side of the pictures, pixels.


class Neighbours:
    """Training images by the features that the branches hand to the head.

    Each feature is centred on its mean over the training images and divided by its standard
    deviation, since features of large numbers would decide alone; likeness is then the cosine.
    """

    def __init__(self, training: TrainingFeatures, store: ImageStore):
        """Takes the features, and the images they are of."""
        self._branches = sorted(training.features)
        raw = self._joined(training.features)
        self._mean, self._scale = raw.mean(axis=0), raw.std(axis=0)
        self._scale[self._scale == 0] = 1.0  # the same in all images
        self._directions = self._direction(raw)
        self._training = training
        self._store = store
        self._row = {record.name: row for row, record in enumerate(store.records)}

    def nearest(self, features: Mapping[str, np.ndarray]) -> list[dict[str, Any]]:
        """The nearest to one image.

        Args:
          features: float32[d] by branch.

        Returns:
          Of each, the nearest first: image (its name), label, similarity (-1 to 1) and png.
        """
        direction = self._direction(self._joined(features))
        similarity = self._directions @ direction
        rows = np.argsort(-similarity, kind="stable")[:COUNT]
        return [
            {
                "image": one_line(self._training.image[row]),  # of any bytes, as files may be named
                "label": CLASSES[self._training.label[row]],
                "similarity": float(similarity[row]),
                "png": png(self._picture(self._training.image[row])),
            }
            for row in rows
        ]

    def _joined(self, features: Mapping[str, np.ndarray]) -> np.ndarray:
        return np.concatenate([features[name] for name in self._branches], axis=-1)

    def _direction(self, features: np.ndarray) -> np.ndarray:
        scaled = (features - self._mean) / self._scale
        length = np.linalg.norm(scaled, axis=-1, keepdims=True)
        return scaled / np.where(length > 0, length, 1.0)

    def _picture(self, name: str) -> np.ndarray:
        row = self._row[name]
        height, width = within(self._store.sizes[row], _LONGEST)
        return cv2.resize(self._store.view(row), (width, height), interpolation=cv2.INTER_AREA)
