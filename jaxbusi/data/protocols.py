"""How the images of a run are divided: drawn from a seed and the images' names.

* `paper`: every class 8:2, image by image; then each image of either part counts as five copies.
* `leaky`: every image is expanded into its copies first and those are divided, so that most images
  are trained on and tested on, with folds in several. It measures what that mistake is worth.
* `clean`: images of a group (near-copies, or one patient's) stay together, groups that carry two
  labels are left out, and what is evaluated are the images alone, without copies.

An item's place in its class is the SHA-256 of seed and name, so that a split depends on nothing
else: not on the order of the files, not on the version of a random generator.
"""

import collections
import dataclasses
import hashlib
import itertools
from collections.abc import Mapping, Sequence
from typing import Literal

from jaxbusi.data.records import CLASSES, Record
from jaxbusi.data.splits import EXCLUDED, EXTERNAL_PREFIX, SplitRow
from jaxbusi.errors import UserError

Protocol = Literal["paper", "leaky", "clean"]


@dataclasses.dataclass(frozen=True)
class Shares:
    """How much of each class goes where.

    Attributes:
      train_fraction: in (0, 1); the rest is the test part. Not read where there are folds.
      validation_fraction: in [0, 1), of the training part.
      folds: 2 or more divide each class into so many test parts; 0 is a single split.
      fold: which of them is tested on, from 0.
    """

    train_fraction: float = 0.8
    validation_fraction: float = 0.0
    folds: int = 0
    fold: int = 0


def draw_rows(
    records: Sequence[Record],
    sha256s: Sequence[str],
    groups: Mapping[str, str],
    *,
    protocol: Protocol,
    shares: Shares,
    copies: int,
    seed: int,
) -> list[SplitRow]:
    """Draws the lines of split.csv.

    Args:
      records: the images; those of a second set have names that begin with `EXTERNAL_PREFIX`.
      sha256s: of the encoded files, aligned to `records`.
      groups: group of each image by name, '' for none.
      protocol: see the module.
      shares: how much goes where.
      copies: that each image is expanded into; the paper's expansion is 5.
      seed: any integer.

    Returns:
      Lines in the order of `records`; with the protocol `leaky` most images have two.

    Raises:
      UserError: a class has too few images.
    """
    own = [record for record in records if not record.name.startswith(EXTERNAL_PREFIX)]
    names, labels = [record.name for record in own], [record.label for record in own]
    parts: dict[str, dict[str, int]] = {
        record.name: {"external": 1 if protocol == "clean" else copies} for record in records
    }
    if protocol == "leaky":
        parts |= _divide_copies(names, labels, copies, shares, seed)
    else:
        kept = groups if protocol == "clean" else dict.fromkeys(names, "")
        divided = divide(names, labels, kept, shares=shares, seed=seed)
        for name, part in divided.items():
            evaluated = protocol == "clean" and part != "train"
            parts[name] = {part: 1 if evaluated else copies}
    return [
        SplitRow(record.name, sha256, CLASSES[record.label], groups[record.name], part, count)
        for record, sha256 in zip(records, sha256s, strict=True)
        for part, count in parts[record.name].items()
    ]


def divide(
    names: Sequence[str],
    labels: Sequence[int],
    groups: Mapping[str, str],
    *,
    shares: Shares,
    seed: int,
) -> dict[str, str]:
    """Divides images into parts, class by class, groups undivided.

    Without groups, of the n images of a class round(`train_fraction` x n) go to the training part
    (section 2.1): on BUSI 350/168/106, and 87/42/27 to the test part. A validation part takes
    round(`validation_fraction` x m) of the m training images of each class, and leaves the test
    part as it is. A group goes where its middle image falls. All parts of a class get at least one.

    Args:
      names: image names, all different.
      labels: indices into `CLASSES`, aligned to `names`.
      groups: group of each image by name, '' for none.
      shares: how much goes where.
      seed: any integer.

    Returns:
      Part by name, in the order of `names`; `EXCLUDED` for groups of more than one class.

    Raises:
      UserError: a class has fewer images, or groups of them, than there are parts.
    """
    if len(set(names)) != len(names):
        raise ValueError("names are not unique")
    members: dict[str, list[str]] = collections.defaultdict(list)
    classes: dict[str, set[int]] = collections.defaultdict(set)
    for name, label in zip(names, labels, strict=True):
        unit = groups[name] or f"image {name}"
        members[unit].append(name)
        classes[unit].add(label)
    parts = {name: EXCLUDED for unit in members if len(classes[unit]) > 1 for name in members[unit]}
    for label in sorted(set(labels)):
        units = [sorted(members[unit]) for unit in members if classes[unit] == {label}]
        # Named by its first image, a group has the same place whatever it is called.
        units.sort(key=lambda unit: _place(seed, unit[0]))
        for images, part in zip(units, _parts(units, label, shares), strict=True):
            parts |= dict.fromkeys(images, part)
    return {name: parts[name] for name in names}


def _parts(units: Sequence[Sequence[str]], label: int, shares: Shares) -> list[str]:
    """The part of each unit of a class, which come in a random order."""
    needed = max(2 + bool(shares.validation_fraction), shares.folds)
    if len(units) < needed:
        raise UserError(
            f"class {CLASSES[label]} has {len(units)} image(s) or groups, a split into {needed} "
            f"parts needs {needed} or more; add images"
        )
    sizes = [len(unit) for unit in units]
    tested = _tested(sizes, label, shares, needed - 1)
    parts = ["test" if test else "train" for test in tested]
    if shares.validation_fraction:
        training = [number for number, test in enumerate(tested) if not test]
        sizes = [sizes[number] for number in training]
        held = min(max(round(shares.validation_fraction * sum(sizes)), 1), sum(sizes) - 1)
        chosen = [middle < held for middle in _middles(sizes)]
        for number, is_held in zip(training, reversed(_both(chosen[::-1])), strict=True):
            parts[number] = "validation" if is_held else "train"
    return parts


def _tested(sizes: Sequence[int], label: int, shares: Shares, least: int) -> list[bool]:
    """Which units of these sizes, as they stand in line, are tested; `least` or more are not."""
    total = sum(sizes)
    middles = _middles(sizes)
    if not shares.folds:
        fitted = min(max(round(shares.train_fraction * total), least), total - 1)
        return _both([middle > fitted for middle in middles])
    tested = [int(middle * shares.folds / total) == shares.fold for middle in middles]
    if not any(tested):
        raise UserError(
            f"fold {shares.fold} of {shares.folds} has no image of class {CLASSES[label]}, "
            "whose groups are too large; use fewer folds"
        )
    return tested


def _middles(sizes: Sequence[int]) -> list[float]:
    """Where the middle of each unit lies when they stand in line."""
    ends = itertools.accumulate(sizes)
    return [end - size / 2 for end, size in zip(ends, sizes, strict=True)]


def _both(chosen: list[bool]) -> list[bool]:
    """`chosen`, in which large groups may have left nothing on one side: the last unit changes."""
    if len(set(chosen)) == 2 or len(chosen) < 2:
        return chosen
    return [*chosen[:-1], not chosen[-1]]


def _divide_copies(
    names: Sequence[str], labels: Sequence[int], copies: int, shares: Shares, seed: int
) -> dict[str, dict[str, int]]:
    """Divides all copies of a class together; how many of each image are in which part."""
    counts: dict[str, dict[str, int]] = {name: {} for name in names}
    for label in sorted(set(labels)):
        here = [name for name, of in zip(names, labels, strict=True) if of == label]
        items = sorted(
            ((name, copy) for name in here for copy in range(copies)),
            key=lambda item: _place(seed, f"{item[0]} {item[1]}"),
        )
        tested = _tested([1] * len(items), label, shares, 1)
        for (name, _), test in zip(items, tested, strict=True):
            part = "test" if test else "train"
            counts[name][part] = counts[name].get(part, 0) + 1
    return counts


def _place(seed: int, name: str) -> tuple[bytes, str]:
    return hashlib.sha256(f"{seed} {name}".encode()).digest(), name
