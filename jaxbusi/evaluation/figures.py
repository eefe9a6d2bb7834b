"""Pictures of a run as PNG files: learning curves, confusion, ROC, mistakes, a batch.

Drawn through `Figure` objects, never pyplot, so that nothing global is touched; the same input
gives the same bytes. 5.5 inches wide at most, so that text can be read on a phone. Colours are
those of Okabe and Ito, which differ under every common colour blindness; line styles and markers
tell the lines apart without colour.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from sklearn import metrics as sklearn_metrics

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import confidence_figures
from jaxbusi.evaluation.canvas import Picture, printable, set_title, style, write
from jaxbusi.evaluation.predictions import Mistake, Predictions, confident_mistakes

WIDTH = 5.5
"""Inches; a column of the report on a large screen, the whole page on a small one."""

BATCH_SHOWN = 24
"""Images of a batch that `plot_batch` shows at most."""

LoadImage = Callable[[str], np.ndarray]
"""The name of an image -> the image itself, uint8[H, W, 3]."""

_CLASS_LINES = {
    "benign": ("#0072B2", "-"),
    "malignant": ("#D55E00", "--"),
    "normal": ("#009E73", "-."),
}
_PART_LINES = {
    "train": ("#0072B2", "-", "o"),
    "validation": ("#009E73", "-.", "^"),
    "test": ("#D55E00", "--", "s"),
    "external": ("#CC79A7", ":", "D"),
}


def plot_curves(history: Sequence[Mapping[str, Any]], path: Path | str) -> None:
    """Draws loss and accuracy against the epoch, a line for each part (the paper's Figure 3).

    Args:
      history: the lines of metrics.jsonl in order; accuracy in 0..1. Of lines with the same part
        and step the later counts. A loss or accuracy that is None leaves a gap.
      path: of the PNG.
    """
    with style():
        figure = Figure(figsize=(WIDTH, 5.4))
        axes = figure.subplots(2, 1, sharex=True)
        for part, (colour, line, marker) in _PART_LINES.items():
            points = {row["step"]: row for row in history if row["part"] == part}
            rows = [points[step] for step in sorted(points)]
            epochs = [row["epoch"] for row in rows]
            for panel, key in zip(axes, ("loss", "accuracy"), strict=True):
                values = [_number(row.get(key)) for row in rows]
                if not np.isfinite(values).any():
                    continue
                # Markers make single points visible and, where there are many, only clutter.
                shown = marker if len(rows) <= 40 else None
                panel.plot(epochs, values, line, color=colour, marker=shown, label=part)
        axes[0].set_ylabel("loss (cross-entropy)")
        axes[0].set_ylim(bottom=0)
        axes[1].set_ylabel("accuracy")
        axes[1].set_ylim(0, 1.02)
        axes[1].yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=" %"))
        axes[1].set_xlabel("epoch")
        axes[1].set_xlim(0, 1.02 * max((row["epoch"] for row in history), default=1) or 1)
        axes[1].xaxis.set_major_locator(ticker.MaxNLocator(integer=True))
        for panel in axes:
            if panel.get_legend_handles_labels()[0]:
                panel.legend(frameon=False)
        write(figure, path)


def plot_confusion(confusion: Sequence[Sequence[int]], path: Path | str, title: str) -> None:
    """Draws counts and shares of each row (the paper's Figure 4).

    Args:
      confusion: 3 rows of 3 counts, rows = truth, in the order of `CLASSES`.
      path: of the PNG.
      title: shown above.
    """
    counts = np.asarray(confusion)
    totals = counts.sum(axis=1, keepdims=True)
    shares = counts / np.maximum(totals, 1)
    with style():
        figure = Figure(figsize=(4.4, 4.2))
        axes = figure.subplots()
        axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            share = _percent(shares[row, column], 0) if totals[row, 0] else "–"
            axes.text(
                column,
                row,
                f"{count}\n{share}",
                ha="center",
                va="center",
                fontsize=12,
                color="white" if shares[row, column] > 0.55 else "black",
            )
        axes.set_xticks(range(len(CLASSES)), CLASSES)
        rows = [f"{name}\n({total})" for name, total in zip(CLASSES, totals[:, 0], strict=True)]
        axes.set_yticks(range(len(CLASSES)), rows)
        axes.set_xlabel("predicted class")
        axes.set_ylabel("true class (number)")
        set_title(axes, title)
        axes.grid(False)
        axes.spines[:].set_visible(False)
        axes.tick_params(length=0)
        write(figure, path)


def plot_roc(
    predictions: Predictions, summary: Mapping[str, Any], path: Path | str, title: str
) -> None:
    """Draws each class against the rest, with the AUC and its interval.

    Args:
      predictions: the rows that `summary` sums up.
      summary: `results.summarize(...)['images' or 'copies']`; the legend quotes its AUC.
      path: of the PNG.
      title: shown above.
    """
    with style():
        figure = Figure(figsize=(4.6, 4.7))
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle=(0, (2, 3)))
        for index, (name, (colour, line)) in enumerate(_CLASS_LINES.items()):
            auc = summary["per_class"][name]["auc"]
            if auc["value"] is None:
                axes.plot([], [], " ", label=f"{name}: not defined here")
                continue
            false, true, _ = sklearn_metrics.roc_curve(
                predictions.label == index, predictions.probabilities[:, index]
            )
            label = f"{name}: AUC {auc['value']:.3f} ({auc['low']:.3f}–{auc['high']:.3f})"
            axes.plot(false, true, line, color=colour, label=label)
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set_xlabel("false positive rate (1 − specificity)")
        axes.set_ylabel("true positive rate (sensitivity)")
        set_title(axes, title)
        axes.legend(loc="lower right", framealpha=0.9, edgecolor="none")
        write(figure, path)


def plot_mistakes(
    predictions: Predictions, load_image: LoadImage, path: Path | str, count: int = 12
) -> None:
    """Draws the wrongly classified images (copy 0) that the model was surest of.

    Args:
      predictions: of one part.
      load_image: gives an image of that part by its name.
      path: of the PNG; it says so in words if there is no mistake.
      count: how many to show at most.
    """
    mistakes = confident_mistakes(predictions)
    number = int((predictions.copy == 0).sum())
    with style():
        if not mistakes:
            figure = Figure(figsize=(WIDTH, 1.0))
            figure.text(
                0.5,
                0.5,
                f"No mistakes: all {number} images got their class.",
                ha="center",
                va="center",
            )
            write(figure, path)
            return
        shown = mistakes[:count]
        rows = math.ceil(len(shown) / 3)
        figure = Figure(figsize=(WIDTH, 0.35 + 2.25 * rows))
        figure.suptitle(
            f"The {len(shown)} most confident of {len(mistakes)} mistakes on {number} images"
            if len(shown) < len(mistakes)
            else f"All {len(mistakes)} mistakes on {number} images, the most confident first"
            if len(mistakes) > 1
            else f"The only mistake on {number} images",
            fontsize=10,
        )
        panels = figure.subplots(rows, 3, squeeze=False).ravel()
        # A tall image fills its row; its name below would run into the next row's words.
        figure.set_layout_engine("constrained", h_pad=0.12)
        for panel in panels:
            panel.axis("off")
        for panel, mistake in zip(panels, shown, strict=False):
            _draw_mistake(panel, mistake, load_image(mistake.image))
        write(figure, path)


def _draw_mistake(panel: Axes, mistake: Mistake, image: np.ndarray) -> None:
    panel.imshow(image)
    panel.set_anchor("N")  # Heights differ: the tops of a row stay in line.
    panel.set_title(
        f"called {mistake.predicted}, {_percent(mistake.probability, 0)}\ntruth: {mistake.truth}",
        fontsize=9,
        pad=3,
    )
    panel.text(
        0.5,
        -0.03,
        printable(mistake.image, limit=30),
        transform=panel.transAxes,
        ha="center",
        va="top",
        fontsize=7,
        parse_math=False,
    )


def plot_batch(images: np.ndarray, labels: np.ndarray, path: Path | str) -> None:
    """Draws the first `BATCH_SHOWN` images of a batch as the model gets them.

    Args:
      images: uint8[B, H, W, 3].
      labels: int[B], indices into `CLASSES`.
      path: of the PNG.
    """
    shown = min(len(images), BATCH_SHOWN)
    which = f"{shown} of the {len(images)}" if shown < len(images) else f"All {shown}"
    columns = 6
    rows = math.ceil(shown / columns)
    with style():
        figure = Figure(figsize=(WIDTH, 0.35 + 1.05 * rows))
        figure.suptitle(f"{which} images of a training batch", fontsize=10)
        panels = figure.subplots(rows, columns, squeeze=False).ravel()
        for panel in panels:
            panel.axis("off")
        for panel, image, label in zip(panels, images[:shown], labels[:shown], strict=False):
            panel.imshow(image)
            panel.set_title(CLASSES[label], fontsize=8, pad=2)
        write(figure, path)


def write_all(
    directory: Path | str,
    *,
    predictions: Mapping[str, Predictions],
    results: Mapping[str, Any],
    history: Sequence[Mapping[str, Any]],
    load_image: Mapping[str, LoadImage],
    batch: tuple[np.ndarray, np.ndarray] | None = None,
) -> list[Picture]:
    """Draws the figures of a run into `directory`.

    Args:
      directory: for confusion_<part>_images.png, confusion_<part>_copies.png (where there are
        copies), roc_<part>.png, reliability_<part>.png, selective_<part>.png, mistakes_<part>.png,
        curves.png (where there is a history) and batch.png (where a batch is given).
      predictions: by part, as `present.renormalise` gives them.
      results: of `results.assemble` over the same rows.
      history: the lines of metrics.jsonl; may be empty.
      load_image: by part, as in `plot_mistakes`.
      batch: augmented images uint8[B, H, W, 3] and their labels int[B].
    """
    directory = Path(directory)
    pictures = []
    for part, rows in predictions.items():
        pictures += _write_part(directory, part, rows, results["parts"][part], load_image[part])
    if history:
        last = {row["part"]: row for row in history}
        epochs = max(row["epoch"] for row in history)
        ends = ", ".join(f"{part} {_percent(row.get('accuracy'), 1)}" for part, row in last.items())
        pictures.append(
            Picture(
                directory / "curves.png",
                "curves",
                "",
                "Loss and accuracy while training",
                f"Two line charts over {epochs:g} epochs; accuracy at the end: {ends}.",
            )
        )
        plot_curves(history, pictures[-1].path)
    if batch is not None:
        pictures.append(
            Picture(
                directory / "batch.png",
                "batch",
                "",
                "Training images as the model gets them",
                "A grid of randomly cropped, turned and recoloured ultrasound images.",
            )
        )
        plot_batch(*batch, pictures[-1].path)
    return pictures


def _write_part(
    directory: Path, part: str, rows: Predictions, summary: Mapping[str, Any], load: LoadImage
) -> list[Picture]:
    images, copies = summary["images"], summary["copies"]
    kinds = [("images", images)] + [("copies", copies)] * (copies["count"] > images["count"])
    pictures = []
    for kind, numbers in kinds:
        what = f"{numbers['count']} {'images' if kind == 'images' else 'augmented copies'}"
        title = f"{part.capitalize()} part: {what}"
        path = directory / f"confusion_{part}_{kind}.png"
        plot_confusion(numbers["confusion"], path, title)
        cells = "; ".join(
            f"of {sum(row)} {truth}: "
            + ", ".join(f"{count} called {name}" for name, count in zip(CLASSES, row, strict=True))
            for truth, row in zip(CLASSES, numbers["confusion"], strict=True)
        )
        pictures.append(Picture(path, "confusion", part, title, f"Confusion matrix: {cells}."))
    title = f"{part.capitalize()} part: {images['count']} images, each class against the rest"
    path = directory / f"roc_{part}.png"
    plot_roc(rows.originals(), images, path, title)
    areas = ", ".join(
        f"{name} {'not defined' if auc is None else format(auc, '.3f')}"
        for name, auc in ((name, images["per_class"][name]["auc"]["value"]) for name in CLASSES)
    )
    pictures.append(Picture(path, "roc", part, title, f"ROC curves; area under them: {areas}."))
    pictures += confidence_figures.write_part(directory, part, rows.originals(), summary)
    path = directory / f"mistakes_{part}.png"
    plot_mistakes(rows, load, path)
    title = f"{part.capitalize()} part: the most confident mistakes"
    alt = "The wrongly classified images listed in the table below."
    return [*pictures, Picture(path, "mistakes", part, title, alt)]


def _number(value: float | None) -> float:
    return math.nan if value is None else float(value)


def _percent(value: float | None, digits: int) -> str:
    return "not defined" if value is None else f"{100 * value:.{digits}f} %"
