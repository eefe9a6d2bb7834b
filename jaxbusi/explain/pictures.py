"""One picture an image: the image, each map over it, and what each branch contributed."""

import dataclasses
import math
from collections.abc import Mapping
from pathlib import Path

import cv2
import matplotlib
import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation.canvas import printable, style, write
from jaxbusi.explain.saliency import NAMES

COLOURS = "plasma"
"""Of the maps: even in print, under every colour blindness, and not black on black images."""

REACH = 3
"""End of the maps' scale, in multiples of what an even map has everywhere."""

BRANCHES = {
    "resnet18": ("ResNet18 (local)", "#0072B2"),
    "vit": ("ViT (global)", "#E69F00"),
    "googlenet": ("GoogLeNet (local)", "#009E73"),
}
"""The branches in words, and their colours."""

_STRONGEST = 0.8  # Opacity at the end of the scale; where a map is 0 it hides nothing.
_DPI = 120  # The pictures are photographs: at the 200 of the charts a page takes 10 MB.


@dataclasses.dataclass(frozen=True)
class Explained:
    """What a picture shows.

    Attributes:
      name: of the image.
      image: uint8[H, W, 3].
      lesion: bool[H, W], outlined; None where it is not known, or there is none.
      truth: index into `CLASSES`; None where it is not known.
      probabilities: float64[3], the answer.
      baseline: float64[3], the answer where no branch sees the image.
      contributions: float64[3] by branch, from the one to the other.
      maps: f32[g, g], 0 or more, by the keys of `saliency.NAMES`.
    """

    name: str
    image: np.ndarray
    lesion: np.ndarray | None
    truth: int | None
    probabilities: np.ndarray
    baseline: np.ndarray
    contributions: Mapping[str, np.ndarray]
    maps: Mapping[str, np.ndarray]

    def title(self) -> str:
        """The answer, how sure, and the truth."""
        best = int(self.probabilities.argmax())
        words = f"answer: {CLASSES[best]}, {100 * self.probabilities[best]:.0f} %"
        return words if self.truth is None else f"{words}; truth: {CLASSES[self.truth]}"

    def alt(self) -> str:
        """What a reader who cannot see the picture needs to know."""
        best = int(self.probabilities.argmax())
        moved = " and ".join(
            f"{BRANCHES[name][0]} {100 * phi[best]:+.0f} points"
            for name, phi in self.contributions.items()
        )
        return f"{self.title()}. Towards the answer: {moved}. Maps: {', '.join(self._map_names())}."

    def _map_names(self) -> list[str]:
        return [NAMES[key] for key in NAMES if key in self.maps]


def choose(truth: np.ndarray | None, probabilities: np.ndarray, count: int) -> list[int]:
    """Chooses images to draw: the surest right answers, class by class, and the surest wrong ones.

    Args:
      truth: int[N]; None where it is not known, and the first images are taken.
      probabilities: float64[N, 3].
      count: how many at most; half of them wrong ones, where there are as many.

    Returns:
      Rows, the right answers first.
    """
    if truth is None:
        return list(range(min(count, len(probabilities))))
    answer = probabilities.argmax(axis=1)
    surest = np.argsort(-probabilities.max(axis=1), kind="stable")
    wrong = [int(row) for row in surest if answer[row] != truth[row]]
    by_class = [
        [int(row) for row in surest if answer[row] == truth[row] == label]
        for label in range(len(CLASSES))
    ]
    turns = max(map(len, by_class))
    right = [rows[turn] for turn in range(turns) for rows in by_class if turn < len(rows)]
    shown = max(count - len(right), min(len(wrong), count // 2))
    return [*right[: count - shown], *wrong[:shown]]


def draw(one: Explained, path: Path) -> None:
    """Writes the picture as a PNG."""
    names = [key for key in NAMES if key in one.maps]
    columns = math.ceil((1 + len(names)) / 2)
    with style():
        matplotlib.rcParams["savefig.dpi"] = _DPI
        height, width = one.image.shape[:2]
        tall = 2.1 * min(max(height / width, 0.6), 1.2)
        figure = Figure(figsize=(2.4 * columns + 2.1, 2 * tall + 1.1))
        # Apart, so that the words below the bars take no room from the maps.
        halves = figure.subfigures(1, 2, squeeze=False, width_ratios=[2.4 * columns, 2.1])
        left, right = halves[0]
        panels = left.subplots(2, columns, squeeze=False).ravel()
        for panel in panels:
            panel.axis("off")
        _show(panels[0], one, "the image" if one.lesion is None else "the image, lesion outlined")
        for panel, key in zip(panels[1:], names, strict=False):
            method, branch = NAMES[key].rsplit(", ", 1)
            empty = not one.maps[key].max() > 0
            _show(panel, one, f"{branch}: {method}{' (empty)' if empty else ''}")
            panel.imshow(overlay(one.maps[key], one.image.shape[:2]))
        scale = left.colorbar(
            ScalarMappable(Normalize(0, REACH), COLOURS),
            ax=panels.tolist(),
            location="bottom",
            shrink=0.6 if columns > 1 else 1.0,
            aspect=40,
        )
        ticks = range(REACH + 1)
        scale.set_ticks(ticks, labels=[f"{n}×" if n < REACH else f"{n}× or more" for n in ticks])
        scale.set_label("of what an even map has everywhere", fontsize=8)
        scale.ax.tick_params(labelsize=8)
        _bars(right.subplots(), one)
        figure.suptitle(
            f"{printable(one.name, limit=60)}\n{one.title()}", fontsize=10, parse_math=False
        )
        write(figure, path)


def overlay(coarse: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A map to be laid over an image: f64[H, W, 4], RGB and opacity, 0 to 1.

    The scale is the same for all maps and images: multiples of what an even map has everywhere. So
    a map that prefers no place looks even and faint, as it would not if its highest value always
    got the brightest colour.

    Args:
      coarse: f32[g, g], 0 or more.
      size: H and W. What the model saw was the image squeezed into a square, so that the map is
        stretched back.
    """
    height, width = size
    large = cv2.resize(coarse.astype(np.float64), (width, height), interpolation=cv2.INTER_LINEAR)
    mean = large.mean()
    values = np.clip(large / mean / REACH, 0, 1) if mean > 0 else large
    colours = matplotlib.colormaps[COLOURS](values)
    colours[..., 3] = _STRONGEST * values
    return np.asarray(colours)


def _show(panel: Axes, one: Explained, title: str) -> None:
    panel.imshow(one.image)
    panel.axis("off")
    panel.set_anchor("N")
    panel.set_title(title, fontsize=8, pad=3)
    if one.lesion is not None:
        # White on black is seen on any background.
        for colour, width in (("black", 1.8), ("white", 0.9)):
            panel.contour(one.lesion.astype(float), [0.5], colors=colour, linewidths=width)


def _bars(axes: Axes, one: Explained) -> None:
    """What each branch contributed to each class, in points of its probability."""
    count = len(one.contributions)
    height = 0.8 / count
    for number, (branch, phi) in enumerate(one.contributions.items()):
        label, colour = BRANCHES[branch]
        places = np.arange(len(CLASSES)) + (number - (count - 1) / 2) * height
        axes.barh(places, 100 * phi, height=0.9 * height, color=colour, label=label)
    axes.axvline(0, color="black", linewidth=0.8)
    axes.set_yticks(
        range(len(CLASSES)),
        [
            f"{name}\n{100 * start:.0f} → {100 * end:.0f} %"
            for name, start, end in zip(CLASSES, one.baseline, one.probabilities, strict=True)
        ],
        fontsize=8,
    )
    reach = max(5.0, *(100 * np.abs(phi).max() for phi in one.contributions.values()))
    axes.set_xlim(-1.1 * reach, 1.1 * reach)
    axes.xaxis.set_major_locator(ticker.MaxNLocator(nbins=3, steps=[1, 2, 5, 10], symmetric=True))
    axes.tick_params(axis="x", labelsize=8)
    axes.set_ylim(len(CLASSES) - 0.5, -0.5)
    axes.set_xlabel("contribution, points", fontsize=8)
    axes.set_title("what each branch adds", fontsize=8, pad=3)
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.12), frameon=False, fontsize=8)
