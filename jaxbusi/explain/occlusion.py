"""How far answers rest on what is no tissue: it is taken away, and the model asked again.

What is taken away is filled from around it (Telea's inpainting, 2004), as a black patch would be a
mark of its own. Two things stand beside for comparison: the same shape taken away where there is no
mark, which says what the filling alone does; and the lesion, which says what matters to the model.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import cv2
import numpy as np

from jaxbusi.data.overlays import find_marks
from jaxbusi.data.records import CLASSES
from jaxbusi.explain.averages import Ratio, mean_over, ratio_intervals

KINDS: dict[str, str] = {
    "marks": "calipers, text and colour",
    "elsewhere": "as much elsewhere, mirrored",
    "borders": "the borders",
    "lesion": "the lesion",
}
"""What is taken away, by key."""

BORDER = 0.06
"""Share of height and width that is taken away at each of the four sides."""

_RADIUS = 3  # Pixels around a filled pixel that its value is made of.


def occluded(image: np.ndarray, lesion: np.ndarray | None) -> dict[str, np.ndarray]:
    """Takes each of `KINDS` out of an image.

    Args:
      image: uint8[H, W, 3].
      lesion: bool[H, W]; None where it is not known, or there is none.

    Returns:
      uint8[H, W, 3] by kind; without `marks` and `elsewhere` where nothing is burnt in, without
      `lesion` where there is none.
    """
    found = {"borders": without_borders(image)}
    marks = find_marks(image)
    if marks.any():
        found["marks"] = _filled(image, marks)
        mirrored = marks[:, ::-1] & ~marks
        if mirrored.any():
            found["elsewhere"] = _filled(image, mirrored)
    if lesion is not None:
        found["lesion"] = _filled(image, lesion)
    return found


def without_borders(image: np.ndarray) -> np.ndarray:
    """The image with `BORDER` of each side replaced by the mirror image of what lies within."""
    height, width = image.shape[:2]
    rows, columns = max(1, round(BORDER * height)), max(1, round(BORDER * width))
    inner = image[rows : height - rows, columns : width - columns]
    if not inner.size:
        return image
    return np.asarray(
        cv2.copyMakeBorder(inner, rows, rows, columns, columns, cv2.BORDER_REFLECT), np.uint8
    )


def summarize(
    changes: Mapping[str, np.ndarray],
    changed: Mapping[str, np.ndarray],
    label: np.ndarray,
    units: Sequence[str],
    *,
    seed: int,
) -> dict[str, Any]:
    """The means over the images, as explain.json has them.

    Args:
      changes: float64[N] by kind, how far the probability of the answer rises when it is taken
        away; NaN where the image has nothing of the kind.
      changed: float64[N] by kind, 1 where another answer is given then, else 0, or NaN.
      label: int[N], the classes, or the answers where they are not known.
      units: N names of what is independent.
      seed: of the bootstrap.

    Returns:
      By kind, then 'all' or a class: `count`, how many images have it; and intervals of `change`,
      the mean of changes; `size`, the mean without signs; `other_answer`, the share of other
      answers.
    """
    summary: dict[str, Any] = {}
    for kind in KINDS:
        summary[kind] = {}
        for group in ("all", *CLASSES):
            rows = np.ones(len(label), bool) if group == "all" else label == CLASSES.index(group)
            ratios: dict[str, Ratio] = {
                "change": mean_over(changes[kind], rows),
                "size": mean_over(np.abs(changes[kind]), rows),
                "other_answer": mean_over(changed[kind], rows),
            }
            count = int(ratios["change"][1].sum())
            if count:
                found = ratio_intervals(ratios, label, units, seed=seed, of_hits=["other_answer"])
                summary[kind][group] = {"count": count, **found}
    return summary


def _filled(image: np.ndarray, where: np.ndarray) -> np.ndarray:
    mask = where.astype(np.uint8)
    return np.asarray(cv2.inpaint(image, mask, _RADIUS, cv2.INPAINT_TELEA), np.uint8)
