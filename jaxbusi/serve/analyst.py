"""A trained classifier that answers about images, those of several requests at a time."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence

import jax
import numpy as np

from jaxbusi.data.augment import AugmentSettings, augment
from jaxbusi.data.images import resize
from jaxbusi.explain.contributions import Coalition, Features, coalition_values
from jaxbusi.explain.looker import Looker
from jaxbusi.explain.saliency import NAMES
from jaxbusi.familiarity import Familiarity, distances
from jaxbusi.serve.record import calibrate

VIEWS = 5
"""Slightly changed copies of an image that are answered beside it."""

BATCH = 8
"""Images on the device at a time: one with its views, and some of another's."""

_SEED = 0  # Of the views: every image is changed in the same ways.


@dataclasses.dataclass(frozen=True)
class Question:
    """An image that is asked about.

    Attributes:
      views: uint8[1 + VIEWS, s, s, 3], the image as the model sees it, and its changed copies.
      explain: whether the maps are asked for, too.
    """

    views: np.ndarray
    explain: bool


@dataclasses.dataclass(frozen=True)
class Findings:
    """What the run makes of an image; probabilities are calibrated where the run is.

    Attributes:
      views: float64[1 + VIEWS, 3], probabilities of the image and of its changed copies.
      values: float64[3] by coalition of branches: its probabilities where the others see nothing.
      features: float32[d] by branch.
      distance: see `familiarity`; None where the run cannot tell.
      maps: f32[g, g] by the keys of `saliency.NAMES`; empty where they were not asked for.
    """

    views: np.ndarray
    values: Mapping[Coalition, np.ndarray]
    features: Features
    distance: float | None
    maps: Mapping[str, np.ndarray]


class Analyst:
    """A classifier on one device. Not to be used by two threads at a time."""

    def __init__(
        self, looker: Looker, means: Features, temperature: float, familiar: Familiarity | None
    ):
        """Takes a classifier in batches of `BATCH`, and what its answers are measured by.

        Args:
          looker: the classifier, on one device.
          means: float32[d] by branch, what stands for a branch that sees nothing.
          temperature: of the probabilities.
          familiar: what distances are measured by; None where there is nothing.
        """
        self._looker = looker
        self._means = means
        self._temperature = temperature
        self._known = None if familiar is None else jax.device_put(familiar.arrays)
        self._distances = jax.jit(distances)

    def warm_up(self) -> list[str]:
        """Compiles what answers need, so that the first need not wait for it.

        Returns:
          Keys of the maps that the classifier has, in the order of `saliency.NAMES`.
        """
        side = self._looker.side
        question = Question(np.zeros((1 + VIEWS, side, side, 3), np.uint8), explain=True)
        self.answer([question] * 2)
        [found] = self.answer([question])
        return [key for key in NAMES if key in found.maps]

    def answer(self, questions: Sequence[Question]) -> list[Findings]:
        """Answers questions, one at least, in their order."""
        squares = np.concatenate([question.views for question in questions])
        found = [self._judge(batch) for batch in _batches(squares, BATCH)]
        features, values, away = jax.tree.map(lambda *parts: np.concatenate(parts), *found)
        whole = values[max(values, key=len)]
        places = [number for number, question in enumerate(questions) if question.explain]
        maps = dict(zip(places, self._look([questions[place] for place in places]), strict=True))
        answers = []
        for number in range(len(questions)):
            first = number * (1 + VIEWS)
            answers.append(
                Findings(
                    whole[first : first + 1 + VIEWS],
                    {present: rows[first] for present, rows in values.items()},
                    {name: rows[first] for name, rows in features.items()},
                    None if away is None else float(away[first]),
                    maps.get(number, {}),
                )
            )
        return answers

    def _judge(
        self, squares: np.ndarray
    ) -> tuple[Features, dict[Coalition, np.ndarray], np.ndarray | None]:
        """Features, calibrated probabilities by coalition and distances of a batch."""
        features = self._looker.features(squares)
        values = coalition_values(self._looker.head, features, self._means)
        calibrated = {
            present: calibrate(rows, self._temperature) for present, rows in values.items()
        }
        if self._known is None:
            return features, calibrated, None
        joined = np.concatenate([features[name] for name in sorted(features)], axis=-1)
        return features, calibrated, jax.device_get(self._distances(joined, *self._known))

    def _look(self, questions: Sequence[Question]) -> list[dict[str, np.ndarray]]:
        """The maps of each image itself: one alone or a batch, the two shapes that are compiled."""
        squares = [question.views[0] for question in questions]
        found = []
        for batch in _batches(squares, 1 if len(squares) == 1 else BATCH):
            _, maps = self._looker.look(batch)
            found += [{name: rows[row] for name, rows in maps.items()} for row in range(len(batch))]
        return found[: len(squares)]


def ask(image: np.ndarray, settings: AugmentSettings, *, explain: bool) -> Question:
    """What is to be asked about an image.

    Args:
      image: uint8[H, W, 3], RGB.
      settings: of the views, see `view_settings`.
      explain: see `Question`.
    """
    base, rng = resize(image, settings.resize), np.random.default_rng(_SEED)
    changed = [augment(base, rng, settings) for _ in range(VIEWS)]
    return Question(np.stack([resize(image, settings.crop), *changed]), explain)


def view_settings(own: AugmentSettings) -> AugmentSettings:
    """How the views differ from the image: as another frame or another device setting might.

    Far less than what is drawn in training, `own`, where a crop may hold a twelfth of the image.
    """
    return AugmentSettings(
        resize=own.resize,
        crop=own.crop,
        scale=(0.85, 1.0),
        ratio=(0.95, 1.05),
        horizontal_flip=0.5,
        vertical_flip=0.0,
        rotation=5.0,
        brightness=0.1,
        contrast=0.1,
        saturation=0.0,
        hue=0.0,
        translation=0.02,
    )


def _batches(squares: Sequence[np.ndarray] | np.ndarray, size: int) -> Iterator[np.ndarray]:
    """uint8[size, s, s, 3] of any number of squares; black ones behind the last."""
    for first in range(0, len(squares), size):
        here = np.asarray(squares[first : first + size])
        padding = np.zeros((size - len(here), *here.shape[1:]), np.uint8)
        yield np.concatenate([here, padding])
