"""A run as it is served: its findings as the JSON that the page draws."""

import dataclasses
from typing import Any

import numpy as np

from jaxbusi.data.augment import AugmentSettings
from jaxbusi.data.records import CLASSES
from jaxbusi.explain.contributions import shapley_values
from jaxbusi.serve import pictures
from jaxbusi.serve.analyst import VIEWS, Analyst, Findings
from jaxbusi.serve.neighbours import Neighbours
from jaxbusi.serve.record import Record
from jaxbusi.serve.uploads import Upload


@dataclasses.dataclass(frozen=True)
class ServedRun:
    """A run, ready to answer.

    Attributes:
      analyst: its classifier.
      views: how changed copies of an image are made.
      neighbours: the training images; None where they are not at hand.
      record: of the run's own test images; None where it has none.
      trained: sha256 of the files that were trained on.
      about: what it is, for /api/model.
    """

    analyst: Analyst
    views: AugmentSettings
    neighbours: Neighbours | None
    record: Record | None
    trained: frozenset[str]
    about: dict[str, Any]

    def describe(self, upload: Upload, found: Findings) -> dict[str, Any]:
        """The answer about an image, without its explanation."""
        low, high = found.views.min(axis=0), found.views.max(axis=0)
        itself = found.views[0]
        return {
            "frame": upload.frame,
            "frames": upload.frames,
            "width": upload.width,
            "height": upload.height,
            "predicted": CLASSES[int(itself.argmax())],
            "probabilities": {
                name: {"value": float(value), "low": float(least), "high": float(most)}
                for name, value, least, most in zip(CLASSES, itself, low, high, strict=True)
            },
            "views": VIEWS,
            "record": None if self.record is None else self.record.near(float(itself.max())),
            "distance": found.distance,
            "trained_on": upload.sha256 in self.trained,
            "unfamiliar": None if found.distance is None else found.distance > 1,
            "weights_sha256": self.about["weights_sha256"],
            "config_sha256": self.about["config_sha256"],
        }

    def explain(self, upload: Upload, found: Findings) -> dict[str, Any]:
        """The answer about an image that the maps were asked for, and its explanation."""
        size = upload.height, upload.width
        return {
            **self.describe(upload, found),
            "image": upload.shown,
            "maps": {
                key: pictures.shown_map(values, size)
                for key in self.about["maps"]
                if (values := found.maps.get(key)) is not None
            },
            "contributions": _contributions(found),
            "neighbours": None
            if self.neighbours is None
            else self.neighbours.nearest(found.features),
        }


def _contributions(found: Findings) -> dict[str, Any]:
    """What each branch adds to each probability, in all where nothing is seen to where all is."""
    moved = shapley_values(found.values)
    sizes = {branch: float(np.abs(phi).sum()) for branch, phi in moved.items()}
    total = sum(sizes.values())
    return {
        "baseline": _by_class(found.values[frozenset()]),
        "points": {branch: _by_class(phi) for branch, phi in moved.items()},
        "shares": {branch: size / total for branch, size in sizes.items()} if total > 0 else None,
    }


def _by_class(values: np.ndarray) -> dict[str, float]:
    return dict(zip(CLASSES, values.tolist(), strict=True))
