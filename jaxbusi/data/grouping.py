"""From links between images to groups of images that belong together."""

import collections
import dataclasses
from collections.abc import Hashable, Iterable, Mapping, Sequence
from pathlib import Path

from jaxbusi.data.images import ImageError
from jaxbusi.data.tables import read_csv
from jaxbusi.errors import UserError

EXACT, COPY, SCENE = "exact", "copy", "scene"

ROLES: tuple[str, ...] = ("reference", EXACT, COPY, "mirrored", SCENE, "single", "unreadable")
"""What an image can be in groups.csv.

* reference: the largest image of its group.
* exact: the same pixels as an image listed before it in the group.
* copy: the same picture, cropped, scaled, recompressed, brightened or with other calipers.
* mirrored: a copy, left to right.
* scene: another frame of the same place, which a split must not part either.
* single: in no group.
* unreadable: not compared at all.
"""


@dataclasses.dataclass(frozen=True)
class Link:
    """Two images that belong together.

    Attributes:
      first: row of one image.
      second: row of the other.
      kind: `EXACT`, `COPY` or `SCENE`.
      score: normalised cross-correlation of the aligned textures; 1 for equal pixels.
      mirrored: whether one had to be mirrored.
    """

    first: int
    second: int
    kind: str
    score: float
    mirrored: bool = False


@dataclasses.dataclass(frozen=True)
class Group:
    """Images that belong together.

    Attributes:
      name: short and unique, for instance 'g007'.
      rows: of the images, two or more: the reference first, then in the order of the records.
      roles: of the images, aligned to `rows`, of `ROLES`.
      links: between them.
    """

    name: str
    rows: tuple[int, ...]
    roles: tuple[str, ...]
    links: tuple[Link, ...]


@dataclasses.dataclass(frozen=True)
class Groups:
    """All groups of a set.

    Attributes:
      names: of all images, those that are in no group or cannot be read included.
      groups: in the order of their first images.
      refused: links that the guard against chains did not let join two groups.
      unreadable: what is wrong with each file that cannot be read, by row.
    """

    names: tuple[str, ...]
    groups: tuple[Group, ...]
    refused: tuple[Link, ...] = ()
    unreadable: dict[int, ImageError] = dataclasses.field(default_factory=dict)

    def of(self) -> dict[str, str]:
        """Returns the group's name by image name, '' for an image on its own: for split.csv."""
        found = dict.fromkeys(self.names, "")
        found |= {self.names[row]: group.name for group in self.groups for row in group.rows}
        return found

    def straddling(self, keys: Sequence[Hashable]) -> list[Group]:
        """Returns the groups whose images differ in a key.

        With labels as keys these are the label conflicts; with folders, the copies across folders;
        with parts of a split, the leaks.

        Args:
          keys: aligned to `names`.
        """
        return [group for group in self.groups if len({keys[row] for row in group.rows}) > 1]

    def rows(self) -> list[tuple[str, str, str]]:
        """Returns the lines of groups.csv: image, group ('' for none), role; in input order."""
        lines = [(name, "", "single") for name in self.names]
        for row in self.unreadable:
            lines[row] = self.names[row], "", "unreadable"
        for group in self.groups:
            for row, role in zip(group.rows, group.roles, strict=True):
                lines[row] = self.names[row], group.name, role
        return lines


def join(count: int, links: Iterable[Link]) -> tuple[list[list[int]], list[Link]]:
    """Joins linked images into components, with a guard against chains.

    Exact and near copies join without condition: they show the same pixels. Two frames of one place
    are a weaker reason, and through a chain of them the first and the last may have nothing in
    common. So weaker links are taken strongest first, and join two components only if in each at
    least half of the members are linked to the other.

    Args:
      count: number of images.
      links: between rows below `count`.

    Returns:
      The components of two rows or more, each sorted, ordered by first row; and the refused links.
    """
    home = list(range(count))
    members = {row: [row] for row in range(count)}

    def unite(first: int, second: int) -> None:
        kept, gone = sorted((home[first], home[second]))
        if kept != gone:
            for row in members[gone]:
                home[row] = kept
            members[kept] += members.pop(gone)

    weak = []
    neighbours: dict[int, set[int]] = collections.defaultdict(set)
    for link in links:
        neighbours[link.first].add(link.second)
        neighbours[link.second].add(link.first)
        if link.kind == SCENE:
            weak.append(link)
        else:
            unite(link.first, link.second)
    weak.sort(key=lambda link: (-link.score, link.first, link.second))

    def holds(one: int, other: int) -> bool:
        linked = sum(any(home[n] == other for n in neighbours[row]) for row in members[one])
        return 2 * linked >= len(members[one])

    refused = []
    for link in weak:
        one, other = home[link.first], home[link.second]
        if one == other:
            continue
        if holds(one, other) and holds(other, one):
            unite(link.first, link.second)
        else:
            refused.append(link)
    refused = [link for link in refused if home[link.first] != home[link.second]]
    components = sorted(sorted(rows) for rows in members.values() if len(rows) > 1)
    return components, refused


def unite(names: Sequence[str], groupings: Sequence[Mapping[str, str]]) -> dict[str, str]:
    """Joins several groupings: images that share a group in any of them share one in the result.

    The groups are the connected components: of three images of which two are near-copies and two
    are one patient's, none may be parted from the others.

    Args:
      names: of the images.
      groupings: group of images by name; '' or no entry is an image on its own.

    Returns:
      The group of each of `names`, '' for none. Names are those of the first grouping, else that of
      the first image: a patient's identifier is not written where results are.
    """
    rows = {name: row for row, name in enumerate(names)}
    links = []
    for grouping in groupings:
        first: dict[str, int] = {}
        for name, row in rows.items():
            if group := grouping.get(name, ""):
                links.append(Link(first.setdefault(group, row), row, COPY, 1.0))
    found = {name: groupings[0].get(name, "") for name in names}
    for component in join(len(names), links)[0]:
        named = [found[names[row]] for row in component if found[names[row]]]
        found |= {names[row]: (named or [names[component[0]]])[0] for row in component}
    return found


def read_groups(
    path: str | Path, names: Sequence[str], optional: Sequence[str] = ()
) -> dict[str, str]:
    """Reads which images belong together from a CSV file: groups.csv, or one of patients.

    Args:
      path: a file with the columns `image` and `group` or `patient`; others are not read. An empty
        group is an image on its own.
      names: the images that it has to list; further ones may be listed.
      optional: images that are on their own where it does not list them.

    Returns:
      The group of each of `names` and `optional`, '' for none.

    Raises:
      UserError: the file cannot be read, lacks a column, lists an image twice or not at all.
    """
    where = f"config.data.groups={path}"
    table = read_csv(path, ("image", "group", "patient"), where=where)
    column = next((name for name in ("group", "patient") if name in table.header), None)
    if column is None or "image" not in table.header:
        raise UserError(
            f"{where} needs the columns image and group (or patient) and a line for each image"
        )
    found: dict[str, str] = {}
    for number, cells in table.lines:
        if cells["image"] in found:
            raise UserError(
                f"{where}, line {number}: {cells['image']!r} is listed a second time; remove one"
            )
        found[cells["image"]] = cells[column]
    missing = [name for name in names if name not in found]
    if missing:
        more = f" (and {len(missing) - 1} more)" if len(missing) > 1 else ""
        raise UserError(f"{where} does not list {missing[0]!r}{more}; add it")
    return {name: found.get(name, "") for name in (*names, *optional)}
