"""One pass over the images: what every coalition of branches says, the maps, the occlusions."""

import contextlib
import dataclasses
from collections.abc import Hashable, Iterable, Sequence
from typing import TypeVar

import numpy as np

from jaxbusi.data.images import resize
from jaxbusi.explain import agreement, subjects
from jaxbusi.explain.contributions import Features, Values, coalition_values
from jaxbusi.explain.looker import Looker
from jaxbusi.explain.occlusion import KINDS, occluded
from jaxbusi.explain.subjects import Batch, Subject
from jaxbusi.logs import progress_bar
from jaxbusi.state import Tree

_K = TypeVar("_K", bound=Hashable)

Maps = dict[str, np.ndarray]
"""f32[N, g, g] by the keys of `saliency.NAMES`."""


@dataclasses.dataclass(frozen=True)
class Observed:
    """What was seen in N images.

    Attributes:
      values: probabilities of every coalition, float64[N, 3] each.
      maps: by key, of the answer.
      lesions: f32[N, side, side] of `agreement.square`; None where no image has a mask, as they
        take a quarter of a megabyte each.
      changes: float64[N] by kind of `occlusion.KINDS`, of the answer's probability; NaN where the
        image has nothing of the kind.
      changed: float64[N] by kind, 1 where another answer is given, else 0, or NaN.
    """

    values: Values
    maps: Maps
    lesions: np.ndarray | None
    changes: dict[str, np.ndarray]
    changed: dict[str, np.ndarray]


def observe(looker: Looker, means: Features, chosen: Sequence[Subject]) -> Observed:
    """Looks at images.

    Args:
      looker: the classifier.
      means: f32[d] by branch, what stands for a branch that sees nothing.
      chosen: the images.

    Raises:
      ImageError: an image or a mask cannot be read.
    """
    found: list[Observed] = []
    masked = any(subject.masks for subject in chosen)
    source = subjects.batches(chosen, looker.batch, looker.side)
    bar = progress_bar(len(chosen), "explaining", "image")
    with contextlib.closing(bar), contextlib.closing(source):
        for batch in source:
            found.append(_observe(looker, means, batch, masked))
            bar.update(len(batch.subjects))
    return Observed(
        _joined([part.values for part in found]),
        _joined([part.maps for part in found]),
        np.concatenate([part.lesions for part in found if part.lesions is not None])
        if masked
        else None,
        _joined([part.changes for part in found]),
        _joined([part.changed for part in found]),
    )


def maps_under(
    looker: Looker, chosen: Sequence[Subject], weights: Tree, target: np.ndarray
) -> Maps:
    """The maps under other weights than the run's, of the classes int[N]."""
    found, first = [], 0
    with contextlib.closing(subjects.batches(chosen, looker.batch, looker.side)) as source:
        for batch in source:
            count = len(batch.subjects)
            about = np.zeros(looker.batch, np.int32)
            about[:count] = target[first : first + count]
            _, maps = looker.look(batch.squares, about, weights)
            found.append({name: rows[:count] for name, rows in maps.items()})
            first += count
    return _joined(found)


def _observe(looker: Looker, means: Features, batch: Batch, masked: bool) -> Observed:
    count = len(batch.subjects)
    features, maps = looker.look(batch.squares)
    values = coalition_values(looker.head, features, means)
    values = {present: rows[:count] for present, rows in values.items()}
    lesions = [
        subject.lesion(image.shape[:2])
        for subject, image in zip(batch.subjects, batch.images, strict=True)
    ]
    changes, changed = _occlude(looker, batch, lesions, values[frozenset(looker.branches)])
    squares = np.stack([agreement.square(lesion) for lesion in lesions]) if masked else None
    maps = {name: rows[:count] for name, rows in maps.items()}
    return Observed(values, maps, squares, changes, changed)


def _occlude(
    looker: Looker,
    batch: Batch,
    lesions: Sequence[np.ndarray | None],
    before: np.ndarray,
) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
    """Changes of the answers, float64[count] by kind: of their probability, and of themselves."""
    altered = [
        (row, kind, resize(image, looker.side))
        for row, (whole, lesion) in enumerate(zip(batch.images, lesions, strict=True))
        for kind, image in occluded(whole, lesion).items()
    ]
    changes = {kind: np.full(len(before), np.nan) for kind in KINDS}
    changed = {kind: np.full(len(before), np.nan) for kind in KINDS}
    answer = before.argmax(axis=1)
    after = _ask(looker, [square for _, _, square in altered])
    for (row, kind, _), probabilities in zip(altered, after, strict=True):
        changes[kind][row] = probabilities[answer[row]] - before[row, answer[row]]
        changed[kind][row] = float(probabilities.argmax() != answer[row])
    return changes, changed


def _ask(looker: Looker, squares: Sequence[np.ndarray]) -> Iterable[np.ndarray]:
    """The probabilities of each of any number of uint8[s, s, 3]."""
    for first in range(0, len(squares), looker.batch):
        here = squares[first : first + looker.batch]
        padded = np.zeros((looker.batch, looker.side, looker.side, 3), np.uint8)
        padded[: len(here)] = here
        yield from looker.head(looker.features(padded))[: len(here)]


def _joined(parts: Sequence[dict[_K, np.ndarray]]) -> dict[_K, np.ndarray]:
    return {key: np.concatenate([part[key] for part in parts]) for key in parts[0]}
