"""report.html: one self-contained page on a run, for a clinician above and a reviewer below."""

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import baselines, calibration, page, paper, present
from jaxbusi.evaluation.canvas import Picture
from jaxbusi.evaluation.predictions import Predictions, confident_mistakes

MISTAKES_LISTED = 12
"""As many as `figures.plot_mistakes` draws."""

PARTS = {
    "train": "the images it was trained on: how well they were learnt, not how well new ones are",
    "validation": "images kept apart from the training images to choose settings by",
    "test": "images kept apart from the training images",
    "external": "images of another source, never trained on",
}
"""Each part in words; see `part_words`."""

PROTOCOLS = {
    "clean": "Images of a group, near-copies or one patient's, are kept in one part; groups whose "
    "images carry two labels are left out. Training images are expanded into randomly altered "
    "copies; what is evaluated are the images alone.",
    "leaky": "Every image is first expanded into randomly altered copies, and the copies are then "
    "divided, so that nearly every image is trained on and tested on. This is a mistake, made here "
    "on purpose to measure what it is worth; these scores say nothing about new images.",
    "paper": "Every class is divided image by image, at random or as a given split.csv says; then "
    "each image of either part is expanded into the same number of randomly altered copies. "
    "Where it is evaluated, copy 0 is the image itself. Scores are given on the images themselves, "
    "on the images with the mean of the probabilities of all their copies as the answer (test-time "
    "augmentation) and, for comparison with the literature, on all copies.",
}
"""Each protocol in words."""

SCORES = (
    ("accuracy", "Accuracy", "share of all images given the right class"),
    ("recall", "Recall (sensitivity)", "share of a class that is recognised"),
    ("specificity", "Specificity", "share of the rest that is not taken for the class"),
    ("precision", "Precision", "share of the answers for a class that are right"),
    ("f1", "F1", "harmonic mean of precision and recall"),
    ("auc", "AUC", "chance that an image of a class is ranked above one of the rest"),
)
"""Key in results.json, name and meaning of each score."""

_SPACE = "\N{NO-BREAK SPACE}"

_CALIBRATION = (
    (
        "brier",
        "Brier score",
        "0 is perfect, 2 the worst; alike for three classes 0.667, for two 0.5",
    ),
    ("ece", "Expected calibration error", "mean gap between how sure and how often right"),
)


@dataclasses.dataclass(frozen=True)
class Run:
    """What the page says about a run.

    Attributes:
      name: heading, for instance the name of the workdir.
      model: a few words, for instance 'ResNet18 + ViT-B/16'.
      data: where the images come from, for instance the name of the set's folder.
      synthetic: the images are phantoms; the page says so in its headline.
      command: the exact command, argument by argument.
      config: the resolved settings, nested mappings of JSON values.
      environment: versions, devices and the like, nested mappings of JSON values.
      split: {part: {class: (images, images with their copies)}}.
      results: of `results.assemble`; its first part is the headline.
      predictions: by part, those of `results`, as `present.renormalise` gives them.
      pictures: of `figures.write_all`.
      skipped: (name, reason) of images that could not be read and were left out.
      explained: of `explained.read`; None where the run was not explained.
    """

    name: str
    model: str
    data: str
    synthetic: bool
    command: Sequence[str]
    config: Mapping[str, Any]
    environment: Mapping[str, Any]
    split: Mapping[str, Mapping[str, tuple[int, int]]]
    results: Mapping[str, Any]
    predictions: Mapping[str, Predictions]
    pictures: Sequence[Picture]
    skipped: Sequence[tuple[str, str]] = ()
    explained: Mapping[str, Any] | None = None


def write_report(path: Path | str, run: Run) -> None:
    """Writes the page of `run`, in one rename.

    Raises:
      UserError: a figure cannot be read or the page cannot be written.
    """
    page.write(
        path,
        "report.html",
        run=run,
        classes=CLASSES,
        paper=paper,
        command=page.command_text(run.command),
        split={
            part: {name: counts.get(name, (0, 0)) for name in CLASSES}
            for part, counts in run.split.items()
        },
        scores=SCORES,
        calibration_scores=_CALIBRATION,
        calibration_bins=calibration.BINS,
        parts=[_part(run, part) for part in run.results["parts"]],
        pictures=[page.embed(picture) for picture in run.pictures if not picture.part],
        protocol=PROTOCOLS.get(run.results["protocol"], ""),
        settings=list(page.flat(run.config)),
        environment=list(page.flat(run.environment)),
        checkpoint=list(page.flat(run.results["checkpoint"])),
    )


def part_words(part: str, protocol: str) -> str:
    """What is evaluated of a part, in words; '' of a part that is not known."""
    if (part, protocol) == ("test", "leaky"):
        return "images most of which were trained on, themselves or in other copies"
    return PARTS.get(part, "")


def _whole(share: float) -> str:
    """'83 %' for 0.833."""
    return f"{100 * share:.0f}{page.PERCENT}"


def _part(run: Run, part: str) -> dict[str, Any]:
    """What the template needs to know of one part."""
    summary = run.results["parts"][part]
    images, copies = summary["images"], summary["copies"]
    mistakes = confident_mistakes(run.predictions[part])
    return {
        "name": part,
        "words": part_words(part, run.results["protocol"]),
        "images": images,
        "baselines": [
            (words, summary["baselines"][rule])
            for rule, words in baselines.NAMES.items()
            if rule in summary["baselines"]
        ],
        # Each kind of row that the tables have a column for, with its heading.
        "kinds": {"images": images}
        | ({"tta": summary["tta"], "copies": copies} if copies != images else {}),
        "headings": {
            "images": f"{images['count']} images",
            "tta": f"{images['count']} images, {_mean_of_views(images, copies)}",
            "copies": f"{copies['count']} copies",
        },
        "sentences": _sentences(summary),
        "half_width": 50 * (images["accuracy"]["high"] - images["accuracy"]["low"]),
        "operating_points": summary["operating_points"],
        "calibration": summary["calibration"],
        "calibration_words": _calibration_words(run, part),
        "selective": summary["selective"],
        "mistakes": mistakes[:MISTAKES_LISTED],
        "mistake_count": len(mistakes),
        "pictures": [page.embed(picture) for picture in run.pictures if picture.part == part],
    }


def _mean_of_views(images: Mapping[str, Any], copies: Mapping[str, Any]) -> str:
    """'mean of five views' for five copies an image."""
    words = {2: "two", 3: "three", 4: "four", 5: "five"}
    views, rest = divmod(copies["count"], images["count"])
    return "mean of their views" if rest else f"mean of {words.get(views, views)} views"


def _calibration_words(run: Run, part: str) -> list[str]:
    """How sure the model was against how often it was right, and what was made of that."""
    fitted, found = run.results["calibration"], run.results["parts"][part]
    bins, accuracy = found["calibration"]["bins"], found["images"]["accuracy"]["value"]
    mean = sum(entry["count"] * entry["confidence"] for entry in bins) / found["images"]["count"]
    sentences = [
        f"On average the model gave its answers a probability of {_whole(mean)}; "
        f"{_whole(accuracy)} of them were right."
    ]
    if fitted["temperature"] is None:
        sentences.append(
            "No temperature was fitted, as this run keeps no validation part; fitted on the images "
            "that it is judged on it would flatter."
        )
    elif part == fitted["fitted_on"]:
        sentences.append(
            f"The temperature {fitted['temperature']:.2f} was fitted on these images. What it does "
            "here says nothing about other images and is left out."
        )
    else:
        was = "more sure than right" if fitted["temperature"] > 1 else "less sure than it might be"
        sentences.append(
            f"Temperature scaling was fitted on the {fitted['images']} images of the "
            f"{fitted['fitted_on']} part and on no others: "
            f"T{_SPACE}={_SPACE}{fitted['temperature']:.2f}, as the model was {was} there. It "
            "changes no answer, only how sure it is; the probabilities in the files and elsewhere "
            "on this page are not scaled."
        )
    if fitted["at_edge"]:
        low, high = calibration.TEMPERATURES
        sentences.append(
            f"The fit stopped at the edge of its range, {low:g} to {high:g}: its images do not say "
            "how far the probabilities should move."
        )
    return sentences


def _sentences(summary: Mapping[str, Any]) -> list[str]:
    """The confusion matrix of the images in words; `summary` is of a part in results.json."""
    confusion = np.array(summary["images"]["confusion"])
    possible = summary["classes"] if summary["renormalised"] else CLASSES
    totals, called, hits = confusion.sum(axis=1), confusion.sum(axis=0), np.diagonal(confusion)
    sentences = [
        f"Of {totals.sum()} images it gave {hits.sum()} the right class "
        f"({_whole(hits.sum() / totals.sum())}). Answering {CLASSES[totals.argmax()]} every time "
        f"would be right for {_whole(totals.max() / totals.sum())}."
    ]
    for index, name in enumerate(CLASSES):
        if not totals[index]:
            sentences.append(
                present.sentence(summary, int(totals.sum()))
                or f"No {name} images are in this part; nothing is known about them."
            )
            continue
        others = " and ".join(
            f"{confusion[index, other]} {CLASSES[other]}"
            for other in range(len(CLASSES))
            if other != index and CLASSES[other] in possible
        )
        sentence = f"Of {totals[index]} {name} images it recognised {hits[index]}"
        if hits[index] < totals[index]:
            sentence += f" and called {others}"
        if called[index]:
            sentence += f"; of {called[index]} that it called {name}, {hits[index]} were"
        sentences.append(sentence + ".")
    return sentences
