"""What explain.json found, as a section of report.html and as a page of its own."""

import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.evaluation import page
from jaxbusi.evaluation.canvas import Picture

SHOWN = 6
"""Pictures in the report; the page of its own has all."""

BRANCHES: dict[str, str] = {
    "resnet18": "ResNet18",
    "vit": "the transformer",
    "googlenet": "GoogLeNet",
}


def read(workdir: Path, step: int) -> dict[str, Any] | None:
    """What the report shows of `explain/explain.json` in a workdir.

    Args:
      workdir: of the run.
      step: of the checkpoint that the report is about.

    Returns:
      The content for the template; None where nothing was explained, or of other weights.
    """
    path = workdir / "explain" / "explain.json"
    if not path.exists():
        return None
    try:
        document = json.loads(path.read_bytes())
        if document["part"] is None:  # of files that somebody had written there
            return None
        if document["checkpoint_step"] != step:
            logging.warning(
                "%s is of another checkpoint and stays out of the report; explain the run again",
                path,
            )
            return None
        return content(document, path.parent, SHOWN)
    # Pictures are gone where explaining was interrupted, which is no reason to lose the report.
    except (OSError, UserError, ValueError, KeyError, TypeError, RecursionError) as error:
        logging.warning("%s cannot be read (%s) and stays out of the report", path, error)
        return None


def content(document: Mapping[str, Any], folder: Path, shown: int) -> dict[str, Any]:
    """What the template needs.

    Args:
      document: of explain.json.
      folder: that its pictures' names are relative to.
      shown: how many pictures at most; of right and of wrong answers alike.
    """
    return {
        "document": document,
        "branches": {name: BRANCHES[name] for name in document["branches"]},
        "coalitions": {
            "+".join(sorted(names)) or "none": _words(names)
            for names in _coalitions(document["branches"])
        },
        "groups": ["all", *CLASSES],
        "pictures": [
            page.embed(Picture(folder / one["file"], "explained", "", one["title"], one["alt"]))
            | {"image": one["image"]}
            for one in _both_ends(document["pictures"], shown)
        ],
    }


def write_page(path: Path, document: Mapping[str, Any], folder: Path) -> None:
    """Writes explain.html, in one rename.

    Raises:
      UserError: a picture cannot be read or the page cannot be written.
    """
    explained = content(document, folder, len(document["pictures"]))
    page.write(path, "explain.html", explained=explained, classes=CLASSES)


def _both_ends(pictures: list[dict[str, str]], count: int) -> list[dict[str, str]]:
    """The first and the last half: the right answers come first, the wrong ones last."""
    if len(pictures) <= count:
        return pictures
    return [*pictures[: count - count // 2], *pictures[len(pictures) - count // 2 :]]


def _coalitions(branches: list[str]) -> list[list[str]]:
    """All sets of branches, the empty one first."""
    found: list[list[str]] = [[]]
    for name in branches:
        found += [[*names, name] for names in found]
    return sorted(found, key=len)


def _words(names: list[str]) -> str:
    if not names:
        return "no branch"
    words = " and ".join(BRANCHES[name] for name in names)
    return f"{words} alone" if len(names) == 1 else words
