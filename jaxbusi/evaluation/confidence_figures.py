"""What the probabilities are worth, as pictures: reliability, and accuracy against coverage."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from matplotlib import ticker
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from jaxbusi.evaluation import intervals, selective
from jaxbusi.evaluation.canvas import Picture, set_title, style, write
from jaxbusi.evaluation.predictions import Predictions

_BEFORE = ("#0072B2", "o", "-")
_AFTER = ("#D55E00", "s", "--")  # another colour, marker and line: told apart without colour


def plot_reliability(calibration: Mapping[str, Any], path: Path | str, title: str) -> None:
    """Draws the share of right answers against the probability of the answer, and how many.

    Args:
      calibration: of `results.judge_probabilities`; with `scaled` there are two lines.
      path: of the PNG.
      title: shown above.
    """
    series = [("as the model gives them", calibration, _BEFORE)]
    if calibration["scaled"] is not None:
        series.append(("temperature-scaled", calibration["scaled"], _AFTER))
    with style():
        figure = Figure(figsize=(4.6, 5.8))
        upper, lower = figure.subplots(2, 1, sharex=True, height_ratios=(3, 1))
        upper.plot([0, 1], [0, 1], color="#888888", linewidth=0.8, linestyle=(0, (2, 3)))
        for number, (label, content, look) in enumerate(series):
            label = f"{label}: ECE {_percent(content['ece']['value'])}"
            _draw_bins(upper, lower, content["bins"], label, look, second=number > 0)
        upper.set(xlim=(0.3, 1.01), ylim=(-0.02, 1.02))  # of three classes the top has a third
        upper.set_ylabel("share of right answers")
        upper.yaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=" %"))
        figure.legend(loc="outside lower center", frameon=False)  # no corner is always free
        set_title(upper, title)
        lower.set_ylabel("images")
        lower.yaxis.set_major_locator(ticker.MaxNLocator(4, integer=True))
        lower.set_xlabel("probability that the model gives its answer")
        lower.xaxis.set_major_formatter(ticker.PercentFormatter(1, symbol=" %"))
        write(figure, path)


def _draw_bins(
    upper: Axes,
    lower: Axes,
    bins: Sequence[Mapping[str, Any]],
    label: str,
    look: tuple[str, str, str],
    *,
    second: bool,
) -> None:
    """One line above, the first with exact binomial intervals, and a bar for each bin below."""
    colour, marker, line = look
    confidence = [entry["confidence"] for entry in bins]
    accuracy = [entry["accuracy"] for entry in bins]
    ends = [intervals.exact(entry["accuracy"], entry["count"]) for entry in bins]
    reach = [
        [value - low for value, (low, _) in zip(accuracy, ends, strict=True)],
        [high - value for value, (_, high) in zip(accuracy, ends, strict=True)],
    ]
    upper.errorbar(
        confidence,
        accuracy,
        yerr=None if second else reach,
        color=colour,
        marker=marker,
        linestyle=line,
        elinewidth=0.8,
        label=label,
    )
    # The bars of the second line are outlines over those of the first, and narrower.
    width = (0.6 if second else 0.9) * (bins[0]["high"] - bins[0]["low"])
    centres = [(entry["low"] + entry["high"]) / 2 for entry in bins]
    lower.bar(
        centres,
        [entry["count"] for entry in bins],
        width,
        facecolor="none" if second else f"{colour}80",
        edgecolor=colour,
        hatch="////" if second else None,
        linewidth=0.8,
    )


def plot_selective(
    predictions: Predictions, points: Sequence[Mapping[str, Any]], path: Path | str, title: str
) -> None:
    """Draws the accuracy on the images that the model is surest of against their share.

    Args:
      predictions: a row is one image.
      points: of `results.judge_probabilities` on the same rows; drawn with their intervals.
      path: of the PNG.
      title: shown above.
    """
    coverage, accuracy, _ = selective.curve(predictions)
    with style():
        figure = Figure(figsize=(4.6, 3.9))
        axes = figure.subplots()
        axes.step(coverage[0], accuracy[0], where="post", color="#0072B2")
        values = [point["accuracy"] for point in points]
        axes.errorbar(
            [point["coverage"] for point in points],
            [value["value"] for value in values],
            yerr=[
                [value["value"] - value["low"] for value in values],
                [value["high"] - value["value"] for value in values],
            ],
            fmt="o",
            color="#D55E00",
            elinewidth=0.8,
        )
        least = min([value["low"] for value in values])
        axes.set(xlim=(0, 1.02), ylim=(max(0, least - 0.1), 1.02))
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_formatter(ticker.PercentFormatter(1, decimals=0, symbol=" %"))
        axes.set_xlabel("share of images answered, the surest first")
        axes.set_ylabel("right among those answered")
        set_title(axes, title)
        write(figure, path)


def write_part(
    directory: Path, part: str, images: Predictions, judged: Mapping[str, Any]
) -> list[Picture]:
    """Draws reliability_<part>.png and selective_<part>.png.

    Args:
      directory: for the figures.
      part: its name.
      images: of the part, a row is one image.
      judged: of `results.judge_probabilities` on the same rows.
    """
    name = part.capitalize()
    title = f"{name} part: {len(images)} images, answers in bins of their probability"
    path = directory / f"reliability_{part}.png"
    plot_reliability(judged["calibration"], path, f"{name} part: {len(images)} images")
    bins = "; ".join(
        f"{entry['count']} given {_percent(entry['confidence'])} on average, "
        f"{_percent(entry['accuracy'])} right"
        for entry in judged["calibration"]["bins"]
    )
    pictures = [Picture(path, "reliability", part, title, f"Reliability diagram: {bins}.")]
    path = directory / f"selective_{part}.png"
    plot_selective(images, judged["selective"], path, f"{name} part: {len(images)} images")
    title = f"{name} part: accuracy where only the surest answers count"
    points = "; ".join(
        f"{_percent(point['coverage'])} answered, {_percent(point['accuracy']['value'])} right"
        for point in judged["selective"]
    )
    return [*pictures, Picture(path, "selective", part, title, f"A line chart: {points}.")]


def _percent(share: float) -> str:
    return f"{100 * share:.1f} %"
