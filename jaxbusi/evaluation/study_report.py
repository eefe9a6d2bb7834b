"""study.md and study.html: the arms of a study in one table, as the paper's Table 4 has them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jaxbusi import atomic
from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import baselines, page, pairs, paper, present
from jaxbusi.evaluation.canvas import Picture
from jaxbusi.evaluation.markdown import literal

SCORES = (
    ("accuracy", "Accuracy"),
    ("precision", "Precision"),
    ("recall", "Recall"),
    ("specificity", "Specificity"),
)
"""The columns of Table 4, and specificity; all but accuracy are means of the classes."""

CLASS_SCORES = (
    ("recall", "Sensitivity"),
    ("specificity", "Specificity"),
    ("precision", "Precision"),
)
"""The columns of one class; its sensitivity is its recall."""

_PUBLISHED = ("accuracy", "precision", "recall")

_KINDS = {
    "images": "the images themselves: one answer for each image",
    "tta": "the images, the answer being the mean over their augmented copies",
    "copies": "all augmented copies, as the paper counts; they are no new evidence",
}

_DIFFERENCES = (
    "First model minus second, in percentage points, on the images themselves; ± is the standard "
    "deviation over the runs that both have on the same images, in brackets the 95 % interval for "
    "other images of the same kind. Where it holds 0, these images do not tell the two apart. "
    "“Right alone” counts the images that one of them got right and the other wrong, each once, "
    "for the model that got it right in more of the runs; p is the exact McNemar test of these "
    "two counts, not corrected for the number of pairs. Two that were tested on different images "
    "have no such pairs, and the difference is that of their means."
)


def _spread(study: Mapping[str, Any]) -> str:
    """What the ± of a score is, as this study's runs were divided."""
    varied = "split and initial weights" if study["splits"]["differ_by_seed"] else "initial weights"
    over = "folds and seeds" if study["config"]["study"]["folds"] else "seeds"
    return (
        f"± is the standard deviation over the {over}, which differ in {varied}; in brackets the "
        "95 % interval of the mean for other images of the same kind."
    )


def write_markdown(path: Path | str, study: Mapping[str, Any]) -> None:
    """Writes the tables as Markdown, in one rename.

    Args:
      path: of the file.
      study: the content of study.json.
    """
    blocks = [f"{_state(study)}\n"]
    for part, kind, rows in _tables(study):
        blocks.append(f"## {part.capitalize()} part: {_KINDS[kind]}\n")
        if words := _renormalised(study, part):
            blocks.append(f"{words}\n")
        quoted = any(row["paper"] for row in rows)
        names = [f"{name} (%)" for _, name in SCORES] + ["paper"] * quoted
        blocks.append(f"| model | runs | {' | '.join(names)} |")
        blocks.append("| --- | --- |" + " --- |" * len(names))
        for row in rows:
            cells = [f"{cell['value']} {cell['range']}".strip() for cell in row["cells"]]
            cells += [row["paper"] or "–"] * quoted
            blocks.append(f"| {row['arm']} | {row['runs']} | {' | '.join(cells)} |")
        blocks.append("")
    blocks.append(_spread(study))
    if any(arm["published"] for arm in study["arms"].values()):
        blocks.append("The column “paper” quotes accuracy / precision / recall as printed.")
    blocks.append("")
    for part, rows in _differences(study).items():
        blocks.append(f"## {part.capitalize()} part: differences between the models\n")
        names = [label for key, label in SCORES if key in pairs.SCORES]
        blocks.append(
            f"| compared | runs each | {' | '.join(names)} | right alone, first : second | p |"
        )
        blocks.append("| --- | --- | " + "--- | " * len(names) + "--- | --- |")
        for row in rows:
            cells = [f"{cell['value']} {cell['range']}".strip() for cell in row["cells"]]
            blocks.append(
                f"| {row['first']} − {row['second']} | {row['splits']} | {' | '.join(cells)} "
                f"| {row['votes']} | {row['p']} |"
            )
        blocks.append("")
        blocks.append(_DIFFERENCES + "\n")
    for part in dict.fromkeys(part for part, _, _ in _tables(study)):
        blocks.append(f"## {part.capitalize()} part: what the task gives away\n")
        blocks.append(f"| the answer is | {' | '.join(_PUBLISHED)} |")
        blocks.append("| --- |" + " --- |" * len(_PUBLISHED))
        for row in _baselines(study, part):
            blocks.append(f"| {row['words']} | {' | '.join(row['cells'])} |")
        blocks.append("")
    for run in _failed(study):
        blocks.append(f"* {run['workdir']} failed: {literal(run['error'])}")
    atomic.write_bytes(path, ("\n".join(blocks).rstrip() + "\n").encode())


def write_page(
    path: Path | str, name: str, study: Mapping[str, Any], pictures: Sequence[Picture]
) -> None:
    """Writes the page of a study, in one rename.

    Args:
      path: of the page.
      name: heading, for instance the name of the study's folder.
      study: the content of study.json.
      pictures: of `study_figures.write_all`.

    Raises:
      UserError: a figure cannot be read or the page cannot be written.
    """
    shared = {key: value for key, value in study["config"].items() if key not in ("study", "seed")}
    parts = list(dict.fromkeys(part for part, _, _ in _tables(study)))
    page.write(
        path,
        "study.html",
        name=name,
        study=study,
        classes=CLASSES,
        paper=paper,
        synthetic=not shared["data"]["root"],
        kinds=_KINDS,
        scores=SCORES,
        class_scores=CLASS_SCORES,
        data=Path(shared["data"]["root"]).name,
        short=_short(study),
        words=_spread(study),
        protocol=_protocol(study),
        differences_words=_DIFFERENCES,
        differences_scores=[(key, label) for key, label in SCORES if key in pairs.SCORES],
        parts={
            part: {
                "renormalised": _renormalised(study, part),
                "tables": [(kind, rows) for of, kind, rows in _tables(study) if of == part],
                "pictures": [page.embed(picture) for picture in pictures if picture.part == part],
                "classes": _class_rows(study, part),
                "differences": _differences(study).get(part, []),
                "baselines": _baselines(study, part),
            }
            for part in parts
        },
        runs=[
            {"arm": arm, **run} for arm, content in study["arms"].items() for run in content["runs"]
        ],
        failed=_failed(study),
        command=page.command_text(study["command"]),
        shared=list(page.flat(shared)),
        changes=list(page.flat(study["config"]["study"]["changes"])),
        environment=list(page.flat({key: study[key] for key in ("versions", "devices")})),
    )


def _short(study: Mapping[str, Any]) -> dict[str, Any]:
    """The headline: accuracy of each arm on the images of the first part, and what differs."""
    part = next((part for arm in study["arms"].values() for part in arm["parts"]), None)
    measured = {name: arm for name, arm in study["arms"].items() if part in arm["parts"]}
    arms = []
    for name, arm in measured.items():
        scores = arm["parts"][part]["images"]["scores"]
        accuracy = scores["accuracy"]
        runs = len(accuracy["values"])
        recall = scores["per_class.malignant.recall"]["mean"]
        found = "" if recall is None else f"; malignant recognised {page.percent(recall)}"
        words = f"{runs} run{'s' if runs > 1 else ''}{found}"
        arms.append(
            {"name": name, "accuracy": {**accuracy, "value": accuracy["mean"]}, "words": words}
        )
    leakage = {
        study["protocols"][name]: arm["leakage"][part]
        for name, arm in measured.items()
        if part in arm["leakage"]
    }
    return {
        "part": part,
        "arms": arms,
        "sentences": _against_best(study, part, arms),
        "leakage": leakage,
    }


def _against_best(
    study: Mapping[str, Any], part: str | None, arms: Sequence[Mapping[str, Any]]
) -> list[str]:
    """The arm of the highest accuracy and each other one, in words."""
    if not arms:
        return []
    best = max(arms, key=lambda arm: float(arm["accuracy"]["value"]))["name"]
    sentences = []
    for pair in study["pairs"]:
        better, worse = pair["first"], pair["second"]
        if pair["part"] != part or best not in (better, worse):
            continue
        mean, low, high = (100 * pair["difference"]["accuracy"][k] for k in ("mean", "low", "high"))
        if mean < 0:
            better, worse, low, high = worse, better, -high, -low
        ends = f"{low:.1f} to {high:.1f}".replace("-", "−")
        sentences.append(
            f"{better} is {abs(mean):.1f} points more accurate than {worse} (95{page.PERCENT} "
            f"interval {ends}){'' if low > 0 else ': these images do not tell the two apart'}."
        )
    return sentences


def _protocol(study: Mapping[str, Any]) -> str:
    """'paper', or which arm has which."""
    protocols = study["protocols"]
    if len(set(protocols.values())) == 1:
        return next(iter(protocols.values()))
    return ", ".join(f"{protocol} of {arm}" for arm, protocol in protocols.items())


def _state(study: Mapping[str, Any]) -> str:
    """What stands above every table: protocol, what the images are, how many runs, leakage."""
    runs = [run for arm in study["arms"].values() for run in arm["runs"]]
    finished = sum(run["finished"] for run in runs)
    what = "" if study["config"]["data"]["root"] else " Synthetic images: no word about patients."
    lines = [f"Protocol: {_protocol(study)}. {finished} of {len(runs)} runs are finished.{what}"]
    for name, arm in study["arms"].items():
        for part, found in arm["leakage"].items():
            leaked, images = found["near_copy_in_training"], found["images"]
            share = f"{100 * leaked / images:.0f} %"
            lines.append(
                f"* {name}: {leaked} of {images} {part} images ({share}) have a near-copy in the "
                "training part."
            )
    return "\n".join(lines)


def _tables(study: Mapping[str, Any]) -> list[tuple[str, str, list[dict[str, Any]]]]:
    """Part, kind of rows, and a table row for each arm that was measured on the part."""
    tables = []
    parts = [part for arm in study["arms"].values() for part in arm["parts"]]
    for part in dict.fromkeys(parts):
        measured = {n: arm for n, arm in study["arms"].items() if part in arm["parts"]}
        for kind in _KINDS:
            rows = [_row(name, arm, part, kind) for name, arm in measured.items()]
            if kind == "images" or any(
                arm["parts"][part]["copies"]["confusion"]
                != arm["parts"][part]["images"]["confusion"]
                for arm in measured.values()
            ):
                tables.append((part, kind, rows))
    return tables


def _renormalised(study: Mapping[str, Any], part: str) -> str:
    """Says that the scores of a part are between the classes that occur; '' where all do."""
    arms = [arm["parts"][part] for arm in study["arms"].values() if part in arm["parts"]]
    return present.sentence(arms[0])


def _row(name: str, arm: Mapping[str, Any], part: str, kind: str) -> dict[str, Any]:
    scores = arm["parts"][part][kind]["scores"]
    published = [arm["published"].get(key) for key in _PUBLISHED]
    return {
        "arm": name,
        "runs": len(scores["accuracy"]["values"]),
        "cells": [_cell(scores[key]) for key, _ in SCORES],
        "paper": " / ".join("–" if value is None else f"{100 * value:.1f}" for value in published)
        if (part, kind) == ("test", "copies") and any(published)
        else "",
    }


def _class_rows(study: Mapping[str, Any], part: str) -> dict[str, list[dict[str, Any]]]:
    """By class, `CLASS_SCORES` on the images, a row for each arm."""
    measured = {
        name: arm["parts"][part]["images"]["scores"]
        for name, arm in study["arms"].items()
        if part in arm["parts"]
    }
    return {
        of: [
            {
                "arm": name,
                "cells": [_cell(scores[f"per_class.{of}.{key}"]) for key, _ in CLASS_SCORES],
            }
            for name, scores in measured.items()
        ]
        for of in CLASSES
    }


def _cell(score: Mapping[str, Any]) -> dict[str, str]:
    """'83.3 ± 1.2' and '(77.0–88.9)', in percent."""
    if score["mean"] is None:
        return {"value": "not defined", "range": ""}
    spread = "" if score["sd"] is None else f" ± {100 * score['sd']:.1f}"
    return {
        "value": f"{100 * score['mean']:.1f}{spread}",
        "range": f"({100 * score['low']:.1f}–{100 * score['high']:.1f})",
    }


def _differences(study: Mapping[str, Any]) -> dict[str, list[dict[str, Any]]]:
    """By part, a table row for each pair of arms."""
    tables: dict[str, list[dict[str, Any]]] = {}
    for pair in study["pairs"]:
        test = pair["mcnemar"]
        row = {
            "first": pair["first"],
            "second": pair["second"],
            "splits": pair["splits"] or "–",
            "cells": [_points(pair["difference"][key]) for key in pairs.SCORES],
            "votes": f"{test['first']} : {test['second']}" if test else "–",
            "p": "–" if not test else "< 0.001" if test["p"] < 0.001 else f"{test['p']:.3f}",
        }
        tables.setdefault(pair["part"], []).append(row)
    return tables


def _points(difference: Mapping[str, Any]) -> dict[str, str]:
    """'+3.2 ± 1.1' and '(−1.0 to +7.1)', in percentage points; † where there was no spread."""
    if difference["mean"] is None:
        return {"value": "not defined", "range": ""}
    mean, low, high = (
        f"{100 * difference[end]:+.1f}".replace("-", "−") for end in ("mean", "low", "high")
    )
    spread = "" if difference["sd"] is None else f" ± {100 * difference['sd']:.1f}"
    return {"value": mean + spread, "range": f"({low} to {high})" + " †" * difference["exact"]}


def _baselines(study: Mapping[str, Any], part: str) -> list[dict[str, Any]]:
    """A table row for each rule, on the images of each protocol once."""
    rows = []
    several = len(set(study["protocols"].values())) > 1
    seen = set()
    for arm, content in study["arms"].items():
        protocol = study["protocols"][arm]
        if protocol in seen or part not in content["baselines"]:
            continue
        seen.add(protocol)
        for rule, scores in content["baselines"][part].items():
            of = f" ({protocol})" if several else ""
            rows.append(
                {
                    "words": baselines.NAMES[rule] + of,
                    "cells": [_plain_cell(scores[key]) for key in _PUBLISHED],
                }
            )
    return rows


def _plain_cell(score: Mapping[str, float | None]) -> str:
    """'56.4 ± 0.0', in percent."""
    mean, spread = score["mean"], score["sd"]
    assert mean is not None
    return f"{100 * mean:.1f}" + ("" if spread is None else f" ± {100 * spread:.1f}")


def _failed(study: Mapping[str, Any]) -> list[Mapping[str, Any]]:
    return [run for arm in study["arms"].values() for run in arm["runs"] if run["error"]]
