"""How much of a map lies in the lesion, against chance and against the maps of other images.

Two measures: the *energy*, the share of all of a map that lies inside the lesion's mask (Wang et
al., 2020), and the *pointing game*, whether the map's highest point does (Zhang et al., 2018). A
map that is even, and a point anywhere, would score the share of the picture that the lesion takes:
the expectation at random. Lesions lie in the middle more often than not, so that a map which always
shows the middle beats that without having seen anything: the maps of the other images, held against
this image's lesion, say by how much.

Maps are coarse, g × g, and shown enlarged bilinearly. The share of an enlarged map inside a mask is
linear in its g × g values, so that the mask is brought down to the map: for m and the matrix W that
enlarges, Σ (W m Wᵀ) · mask = Σ m · (Wᵀ mask W).
"""

import functools
from collections.abc import Sequence
from typing import Any

import cv2
import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.explain.averages import Ratio, mean_over, ratio_intervals

SIDE = 256
"""Pixels of the square on which masks are held against maps."""


def square(mask: np.ndarray | None) -> np.ndarray:
    """A lesion's mask, bool[H, W], as the model sees the image: f32[SIDE, SIDE], shares 0 to 1.

    No mask gives an empty one.
    """
    if mask is None:
        return np.zeros((SIDE, SIDE), np.float32)
    return cv2.resize(mask.astype(np.float32), (SIDE, SIDE), interpolation=cv2.INTER_AREA)


@functools.cache
def _enlarging(side: int) -> np.ndarray:
    """f64[SIDE, side], the matrix that enlarges a column of a map."""
    identity = np.eye(side)
    return cv2.resize(identity, (side, SIDE), interpolation=cv2.INTER_LINEAR)


def weigh(squares: np.ndarray, side: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """What a map of side × side values has to be multiplied with.

    Args:
      squares: f32[N, SIDE, SIDE] of `square`.
      side: g.

    Returns:
      float64[N, g²], a value's share of the enlarged map's sum inside each mask; float64[g²], and
      in the whole picture; bool[N, g²], whether the middle of a value's cell is in the mask.
    """
    enlarge = _enlarging(side)
    inside = np.einsum("ri,nrc,cj->nij", enlarge, squares, enlarge, optimize=True)
    whole = np.outer(enlarge.sum(0), enlarge.sum(0))
    middle = ((np.arange(side) + 0.5) * SIDE / side).astype(int)
    hits = squares[:, middle[:, None], middle[None, :]] >= 0.5
    count = len(squares)
    return inside.reshape(count, -1), whole.reshape(-1), hits.reshape(count, -1)


def agree(maps: np.ndarray, squares: np.ndarray, units: Sequence[str]) -> dict[str, np.ndarray]:
    """Holds maps against masks, each image's own and those of the others.

    Args:
      maps: f32[N, g, g], 0 or more.
      squares: f32[N, SIDE, SIDE] of `square`; empty where an image has no lesion.
      units: N names; the images of one unit are not taken for others of each other.

    Returns:
      float64[N] each, NaN where an image has no lesion, and where its map is 0 everywhere:

      * energy: share of the map inside the lesion, 0 to 1;
      * pointing: 1 where its highest point is inside, else 0;
      * area: share of the picture that the lesion takes, what both are expected to be at random;
      * energy_of_others, pointing_of_others: the means of other images' maps for this lesion.
    """
    inside, whole, hits = weigh(squares, maps.shape[-1])
    flat = maps.reshape(len(maps), -1).astype(np.float64)
    sums = flat @ whole
    shares = np.divide(flat, sums[:, None], out=np.zeros_like(flat), where=sums[:, None] > 0)
    energy = shares @ inside.T  # of the map of the row in the lesion of the column
    points = hits.T[flat.argmax(axis=1)].astype(np.float64)
    unit = np.unique(np.array(units, dtype=object), return_inverse=True)[1]
    other = ((unit[:, None] != unit[None, :]) & (sums > 0)[:, None]).astype(np.float64)
    area = squares.mean(axis=(1, 2), dtype=np.float64)
    undefined = np.where((area > 0) & (sums > 0), 0.0, np.nan)
    with np.errstate(invalid="ignore"):  # no other image at all
        of_others = [(table * other).sum(0) / other.sum(0) for table in (energy, points)]
    return {
        "energy": np.diagonal(energy) + undefined,
        "pointing": np.diagonal(points) + undefined,
        "area": area + undefined,
        "energy_of_others": of_others[0] + undefined,
        "pointing_of_others": of_others[1] + undefined,
    }


def summarize(
    agreed: dict[str, dict[str, np.ndarray]], label: np.ndarray, units: Sequence[str], *, seed: int
) -> dict[str, Any]:
    """The means over the images with lesions, as explain.json has them.

    Args:
      agreed: by map, of `agree`.
      label: int[N], the classes.
      units: N names of what is independent.
      seed: of the bootstrap.

    Returns:
      By map, then 'all' or a class: `count`, how many images are counted; an interval for each key
      of `agree`; and `energy_gain`, `pointing_gain`, how much more than at random, and
      `energy_gain_on_others`, `pointing_gain_on_others`, than the maps of other images.
    """
    summary: dict[str, Any] = {}
    for name, scores in agreed.items():
        gains = {
            f"{kind}_gain{suffix}": scores[kind] - scores[against]
            for kind in ("energy", "pointing")
            for suffix, against in (("", "area"), ("_on_others", f"{kind}_of_others"))
        }
        summary[name] = {}
        for group in ("all", *CLASSES):
            rows = np.ones(len(label), bool) if group == "all" else label == CLASSES.index(group)
            ratios: dict[str, Ratio] = {
                key: mean_over(values, rows) for key, values in (scores | gains).items()
            }
            count = int(ratios["energy"][1].sum())
            if count:
                found = ratio_intervals(ratios, label, units, seed=seed, of_hits=["pointing"])
                summary[name][group] = {"count": count, **found}
    return summary
