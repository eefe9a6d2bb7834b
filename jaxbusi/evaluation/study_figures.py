"""Pictures of a study: learning curves with a line for each arm, a confusion matrix for each."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.figure import Figure

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation.canvas import Picture, printable, style, write
from jaxbusi.evaluation.figures import WIDTH, plot_confusion

History = Sequence[Mapping[str, Any]]
"""The lines of a run's metrics.jsonl."""

# Okabe and Ito's colours, and lines that differ without them.
_LINES = (
    ("#0072B2", "-"),
    ("#D55E00", "--"),
    ("#009E73", "-."),
    ("#CC79A7", ":"),
    ("#E69F00", (0, (5, 1, 1, 1, 1, 1))),
    ("#56B4E9", (0, (8, 2))),
    ("#000000", (0, (1, 2))),
)


def plot_arms(histories: Mapping[str, Sequence[History]], part: str, path: Path | str) -> None:
    """Draws loss and accuracy on a part against the epoch, a line for each arm (Figure 3).

    The line is the mean over the runs of the arm, the band reaches from the least to the greatest.

    Args:
      histories: by arm, one for each finished run; where one ended early, the line ends there.
      part: which lines of the histories count.
      path: of the PNG.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 5.6))
        axes = figure.subplots(2, 1, sharex=True)
        for number, (arm, runs) in enumerate(histories.items()):
            colour, line = _LINES[number % len(_LINES)]
            for panel, key in zip(axes, ("loss", "accuracy"), strict=True):
                epochs, values = _table(runs, part, key)
                panel.plot(
                    epochs,
                    values.mean(axis=0),
                    color=colour,
                    linestyle=line,
                    marker="o" if len(epochs) == 1 else None,
                    label=printable(arm, limit=24),
                )
                panel.fill_between(
                    epochs, values.min(axis=0), values.max(axis=0), color=colour, alpha=0.15, lw=0
                )
        axes[0].set_ylabel(f"{part} loss (cross-entropy)")
        axes[0].set_ylim(bottom=0)
        axes[1].set_ylabel(f"{part} accuracy")
        axes[1].set_ylim(0, 1.02)
        axes[1].yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=" %"))
        axes[1].set_xlabel("epoch")
        axes[1].set_xlim(left=0)
        axes[1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        axes[0].legend(frameon=False)
        write(figure, path)


def _table(runs: Sequence[History], part: str, key: str) -> tuple[list[float], np.ndarray]:
    """When all runs were measured, epochs, and f64[runs, epochs] values, NaN for none.

    An epoch ends at the next whole step, which in folds of other sizes is not the same epoch to the
    last digit: the first measurements of the runs belong together, and so on.
    """
    curves = [
        sorted({row["epoch"]: row[key] for row in history if row["part"] == part}.items())
        for history in runs
    ]
    shared = min(len(curve) for curve in curves)
    epochs = [float(np.mean([curve[place][0] for curve in curves])) for place in range(shared)]
    values = [[np.nan if y is None else y for _, y in curve[:shared]] for curve in curves]
    return epochs, np.array(values, np.float64).reshape(len(runs), shared)


def write_all(
    directory: Path | str,
    arms: Mapping[str, Mapping[str, Any]],
    histories: Mapping[str, Sequence[History]],
) -> list[Picture]:
    """Draws the figures of a study.

    Args:
      directory: for curves_<part>.png and confusion_<arm>_<part>_<kind>.png.
      arms: by arm, of `comparison.summarize_arm`.
      histories: by arm, one for each of its runs.

    Returns:
      The figures, the curves of each part before its confusion matrices.
    """
    directory = Path(directory)
    pictures = []
    for part in dict.fromkeys(part for parts in arms.values() for part in parts):
        path = directory / f"curves_{part}.png"
        shown = {arm: histories[arm] for arm in arms if part in arms[arm] and histories[arm]}
        if any(row["part"] == part for runs in shown.values() for run in runs for row in run):
            plot_arms(shown, part, path)
            title = f"Loss and accuracy on the {part} part while training"
            alt = f"Two line charts with a line for each of {', '.join(shown)}."
            pictures.append(Picture(path, "curves", part, title, alt))
        for arm, parts in arms.items():
            if part in parts:
                pictures += _confusions(directory, arm, part, parts[part])
    return pictures


def _confusions(directory: Path, arm: str, part: str, summary: Mapping[str, Any]) -> list[Picture]:
    pictures = []
    counts = {kind: np.array(summary[kind]["confusion"]) for kind in ("images", "copies")}
    if counts["copies"].sum() == counts["images"].sum():
        del counts["copies"]  # an image is its only copy
    for kind, confusion in counts.items():
        runs = len(summary[kind]["scores"]["accuracy"]["values"])
        what = "augmented copies" if kind == "copies" else "images"
        over = "" if runs == 1 else f", {runs} runs together"
        title = f"{arm}{over}, {part} part: {confusion.sum()} {what}"
        path = directory / f"confusion_{arm}_{part}_{kind}.png"
        plot_confusion(confusion.tolist(), path, title)
        cells = "; ".join(
            f"of {row.sum()} {truth}: "
            + ", ".join(f"{count} called {name}" for name, count in zip(CLASSES, row, strict=True))
            for truth, row in zip(CLASSES, confusion, strict=True)
        )
        pictures.append(Picture(path, "confusion", part, title, f"Confusion matrix: {cells}."))
    return pictures
