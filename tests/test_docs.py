"""The documents: what is drawn and scored is explained, links lead somewhere, examples add up."""

import ast
import collections
import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest

from jaxbusi.data.grouping import Groups
from jaxbusi.data.records import CLASSES
from jaxbusi.evaluation import (
    baselines,
    comparison,
    findings,
    intervals,
    metrics,
    pairs,
    results,
)
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.evaluation.shortcuts import Shortcut

ROOT = Path(__file__).parents[1]
READING = (ROOT / "docs/reading.md").read_text()
EXPLAINING = (ROOT / "docs/explaining.md").read_text()
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]

DRAWN_BY = [
    *sorted(ROOT.glob("jaxbusi/evaluation/*.py")),
    *sorted(ROOT.glob("jaxbusi/explain/*.py")),
]
_FIELD = "*"  # stands for whatever an f-string puts into a file name


def prose(text):
    """A document without its blocks of code."""
    return re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)


def anchors(text):
    """Those that GitHub gives its headings, in order."""
    found, seen = [], collections.Counter()
    for title in re.findall(r"^#+ (.+)$", prose(text), re.MULTILINE):
        anchor = re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-")
        found.append(f"{anchor}-{seen[anchor]}" if seen[anchor] else anchor)
        seen[anchor] += 1
    return found


def sections(text):
    """{anchor: what stands between its heading and the next}."""
    bodies = re.split(r"^#+ .+$", prose(text), flags=re.MULTILINE)[1:]
    return dict(zip(anchors(text), bodies, strict=True))


def drawn():
    """Kinds of `Picture` and patterns of file names, as the modules that draw spell them."""
    kinds, names = set(), set()
    for path in DRAWN_BY:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "id", "") == "Picture":
                kind = node.args[1]
                assert isinstance(kind, ast.Constant), f"{path}:{node.lineno}: which kind is it?"
                kinds.add(kind.value)
            if isinstance(node, ast.JoinedStr):
                parts = [p.value if isinstance(p, ast.Constant) else _FIELD for p in node.values]
                names.add("".join(parts))
            elif isinstance(node, ast.Constant) and isinstance(node.value, str):
                names.add(node.value)
    return kinds, {name for name in names if re.fullmatch(r"\w[\w*]*\.png", name)}


def figure_names():
    """File names that docs/reading.md explains, in bold, or docs/explaining.md, which has one."""
    bold = re.findall(r"\*\*`([^`]+\.png)`\*\*", READING)
    return [*bold, *re.findall(r"`(?:figures/)?([^`]+\.png)`", EXPLAINING)]


def test_every_figure_is_explained():
    kinds, names = drawn()
    assert {"roc", "curves"} < kinds  # the modules are read as they should be
    assert {"batch.png", "roc_*.png", "confusion_*_*_*.png", "explained_*.png"} <= names
    explained = figure_names()
    for name in names:
        fits = re.compile(re.escape(name).replace(re.escape(_FIELD), r"[^_]+"))
        assert any(fits.fullmatch(other) for other in explained), f"{name}: not in docs/reading.md"
    for kind in kinds:
        assert any(re.match(rf"{kind}[_.]", name) for name in explained), kind


@pytest.fixture(scope="module")
def judged():
    """Twelve images in two views, with every class right and wrong."""
    label = np.repeat([0, 1, 2], 4)
    shares = np.full((12, 3), 0.2)
    shares[np.arange(12), np.where(np.arange(12) % 4, label, 0)] = 0.6
    names = [f"{row}.png" for row in range(12)]
    return Predictions(names * 2, np.repeat([0, 1], 12), np.tile(label, 2), np.tile(shares, (2, 1)))


def keys(document):
    """The names in a document of JSON values, at any depth."""
    if isinstance(document, dict):
        return set(document).union(*map(keys, document.values()))
    return set().union(*map(keys, document)) if isinstance(document, list) else set()


def files(judged):
    """What results.json, study.json and audit.json say of scores, names of things left out."""
    rules = {name: scores_of_a_rule(judged) for name in baselines.NAMES}
    run = results.assemble(
        {"test": judged, "validation": judged},
        protocol="paper",
        checkpoint={"step": 1, "chosen": "latest"},
        leakage={"test": (1, 12)},
        baselines={"test": rules},
        resamples=2,
    )
    arm = comparison.summarize_arm([{"test": judged}], resamples=2)
    arms = {name: {0: {"test": judged}} for name in ("one", "other")}
    study = [
        arm["test"],
        comparison.sum_leakage([run]),
        comparison.mean_baselines([run]),
        {"pairs": pairs.compare_arms(arms, resamples=2)},
    ]
    audit = findings.assemble([findings.Folder("set", "", [])], [], Groups((), ()))
    audit["shortcuts"]["size"] = dict.fromkeys(field.name for field in dataclasses.fields(Shortcut))
    return {"results.json": run, "study.json": study, "audit.json": audit}


def scores_of_a_rule(judged):
    scored = intervals.bootstrap(judged, resamples=2)
    return {score: scored[score] for score in baselines.SCORES}


# Names of classes and parts; which folder is meant; limits of the audit, which its page explains.
_PLAIN = {
    *CLASSES, "test", "validation", "path", "name", "prefix", "labels",
    "near_copy", "part_or_mirrored", "whole", "candidates", "hash",
}  # fmt: skip


def test_every_name_in_the_files_is_explained(judged):
    """It stands in the table of terms, and in a section that the table sends the reader to."""
    bodies = sections(READING)
    table = [row.split(" | ") for row in bodies.pop("terms").splitlines() if row.startswith("| ")]
    for file, document in files(judged).items():
        found = {key.removeprefix("per_class.") for key in keys(document) - _PLAIN}
        found = {key.rsplit(".", 1)[-1] for key in found}
        assert set(metrics.AVERAGED) <= found or file == "audit.json"
        for key in found:
            to = "".join(where for terms, where in table if f"`{key}`" in terms)
            assert to, f"{file}: {key} is not among the terms of docs/reading.md"
            linked = re.findall(r"\(#([^)]+)\)", to)
            assert any(f"`{key}`" in bodies[anchor] for anchor in linked), f"{file}: {key}"


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_links_lead_somewhere(path):
    text = prose(path.read_text())
    links = re.findall(r"\]\(([^)\s]+)\)", text) + re.findall(
        r"^\[[^\]]+\]: (\S+)", text, re.MULTILINE
    )
    for link in links:
        if re.match(r"https?://|mailto:", link):
            continue
        file, _, anchor = link.partition("#")
        target = path.parent / file if file else path
        assert target.exists(), link
        if anchor:
            assert anchor in anchors(target.read_text()), link


def test_anchors_are_those_of_github():
    text = "# A, `b` & c\n## mean ± sd\n```\n# no heading\n```\n## What's _this_?\n## mean ± sd\n"
    assert anchors(text) == ["a-b--c", "mean--sd", "whats-_this_", "mean--sd-1"]


def rows_of(heading):
    """The cells of the first table with a heading that begins so, without its head."""
    block = READING[READING.index(f"| {heading} |") :].split("\n\n")[0].splitlines()[2:]
    return [[cell.strip() for cell in row.strip("|").split("|")] for row in block]


def test_the_example_adds_up():
    counts = np.array([[int(cell) for cell in row[1:4]] for row in rows_of("truth")[:3]])
    label, answer = np.repeat(np.indices((3, 3)).reshape(2, 9), counts.ravel(), axis=1)
    names = [str(row) for row in range(len(label))]
    rows = Predictions(names, np.zeros(len(label)), label, np.eye(3)[answer])
    scored = metrics.scores(rows)
    order = ("recall", "specificity", "precision", "f1")
    for name, *cells in rows_of("in percent"):
        for score, cell in zip(order, cells, strict=True):
            key = score if name == "mean of the classes" else metrics.class_key(name, score)
            assert cell == f"{100 * scored[key]:.1f}", key
    assert f"= {100 * scored['accuracy']:.1f} %" in READING
    found, false = (
        scored["per_class.malignant.recall"],
        1 - scored["per_class.malignant.specificity"],
    )
    said = [
        f"{100 * s * found / (s * found + (1 - s) * false):.0f} %" for s in (42 / 156, 0.1, 0.01)
    ]
    assert rows_of("share of malignant images") == [
        ["of those called malignant, are malignant", *said]
    ]
