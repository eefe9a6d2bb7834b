"""How every figure looks, and how it gets to disk."""

import contextlib
import dataclasses
import functools
import io
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import matplotlib
from matplotlib import font_manager
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from jaxbusi import atomic

_STYLE: dict[Any, Any] = {
    "figure.dpi": 200,
    "savefig.dpi": 200,
    "figure.constrained_layout.use": True,
    "font.family": "DejaVu Sans",  # matplotlib's own, so that every machine draws the same
    "font.size": 10,
    "axes.titlesize": 10,
    "axes.labelsize": 10,
    "xtick.labelsize": 9,
    "ytick.labelsize": 9,
    "legend.fontsize": 9,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "grid.color": "#dddddd",
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "lines.linewidth": 1.6,
    "lines.markersize": 4,
}

_LETTERS = 37  # In a line of a title.


@dataclasses.dataclass(frozen=True)
class Picture:
    """A figure as the report shows it.

    Attributes:
      path: of the PNG.
      kind: 'curves', 'confusion', 'roc', 'reliability', 'selective', 'mistakes' or 'batch'.
      part: which part of the data it shows; empty if it is about the whole run.
      title: a few words.
      alt: what a reader who cannot see it needs to know.
    """

    path: Path
    kind: str
    part: str
    title: str
    alt: str


@contextlib.contextmanager
def style() -> Iterator[None]:
    """Matplotlib's defaults with ours on top, whatever the user's matplotlibrc says."""
    with matplotlib.rc_context():
        matplotlib.rcdefaults()
        matplotlib.rcParams.update(_STYLE)
        yield


def set_title(axes: Axes, title: str) -> None:
    """Writes a title in as many lines as it takes, three at most; a longer one loses its beginning.

    Made for figures 4.4 inches wide. It stands over the middle of the axes, which is right of the
    middle of the figure, so that not all of the width is free.
    """
    lines = textwrap.wrap(printable(title, limit=3 * _LETTERS), _LETTERS)
    axes.set_title("\n".join(lines), parse_math=False)


def write(figure: Figure, path: Path | str) -> None:
    """Writes a PNG in one rename; the same figure gives the same bytes."""
    data = io.BytesIO()
    # What `savefig` writes, without its rehearsal, which takes a quarter of the time. The metadata
    # would otherwise hold the version of matplotlib.
    FigureCanvasAgg(figure).print_png(data, metadata={"Software": None})
    atomic.write_bytes(path, data.getvalue())


@functools.cache
def _glyphs() -> frozenset[int]:
    font = font_manager.get_font(font_manager.findfont(_STYLE["font.family"]))
    return frozenset(font.get_charmap())


def printable(text: str, limit: int) -> str:
    """`text` for a figure: its end, and codes for what the font cannot draw."""
    drawn = "".join(
        char if char.isprintable() and ord(char) in _glyphs() else f"\\u{ord(char):04x}"
        for char in text
    )
    return drawn if len(drawn) <= limit else "…" + drawn[1 - limit :]
