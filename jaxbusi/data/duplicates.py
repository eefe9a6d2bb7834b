"""Finds the images of a set that show the same thing: exact copies, near-copies, one scene twice.

Four steps, none of which holds a matrix of all pairs: every image is read once and leaves a
fingerprint; equal digests of pixels are exact copies; a perceptual hash of the whole and of parts,
kept in an index, names few candidates for the rest; each candidate is aligned and compared.
"""

import collections
from collections.abc import Iterator, Sequence

import numpy as np
from tqdm import tqdm

from jaxbusi.data import hashes
from jaxbusi.data.alignment import Agreement, align
from jaxbusi.data.fingerprints import Fingerprint, read_fingerprints
from jaxbusi.data.grouping import COPY, EXACT, SCENE, Group, Groups, Link, join
from jaxbusi.data.images import ImageError
from jaxbusi.data.neighbours import Matches, nearest
from jaxbusi.data.records import Record
from jaxbusi.data.threads import in_threads

CANDIDATES = 6
"""Other images looked at for each image, as it is and mirrored."""

LEAST_HASH = 0.4
"""Correlation of hashes from which an image is a candidate."""

COPY_SCORE = 0.8
"""Agreement from which two images are the same picture: copies in BUSI reach 0.9 and more."""

PART_SCORE, PART_TYPICAL = 0.7, 0.5
"""Agreement from which an image belongs to a part of another one, or to a mirrored one.

Between these and `COPY_SCORE` lie other frames of one place. Images that have nothing to do with
each other reach 0.54, as with this many ways to lay one on the other the best agrees by chance.
"""

WHOLE_SCORE, WHOLE_TYPICAL = 0.49, 0.4
"""Agreement from which two whole images, neither mirrored, show one place.

Cysts of different patients reach 0.487 on BUSI, the weakest pair known to be one lesion 0.496: the
two overlap, and pairs near the limit are for a person to judge.
"""

_CHUNK = 32  # Pairs that a thread compares at a time.


def find_groups(records: Sequence[Record], *, progress: bool = False) -> Groups:
    """Reads images and groups those that must not be parted; files that cannot be read are listed.

    Args:
      records: the images; of several sets, with names that differ between sets.
      progress: draw progress bars where the standard error stream is a terminal.

    Returns:
      Groups whose rows are those of `records`.
    """
    found = read_fingerprints(records, progress=progress)
    return group_fingerprints([record.name for record in records], found, progress=progress)


def group_fingerprints(
    names: Sequence[str],
    fingerprints: Sequence[Fingerprint | ImageError],
    *,
    progress: bool = False,
) -> Groups:
    """Groups images of which the fingerprints were taken, as `find_groups`.

    Args:
      names: of the images, all different.
      fingerprints: aligned to `names`; an error stands for a file that cannot be read.
      progress: draw progress bars where the standard error stream is a terminal.
    """
    if len(set(names)) != len(names):
        raise ValueError("names are not unique")
    readable = {row: f for row, f in enumerate(fingerprints) if isinstance(f, Fingerprint)}
    originals, exact = _exact_copies(readable)
    near = _near_copies(originals, [readable[row] for row in originals], progress)
    components, refused = join(len(names), exact + near)
    return Groups(
        names=tuple(names),
        groups=_describe(components, exact + near, readable),
        refused=tuple(refused),
        unreadable={r: f for r, f in enumerate(fingerprints) if isinstance(f, ImageError)},
    )


def _exact_copies(readable: dict[int, Fingerprint]) -> tuple[list[int], list[Link]]:
    """The first row with each digest, and a link from it to each row that has the same."""
    first: dict[str, int] = {}
    links = []
    for row, fingerprint in readable.items():
        original = first.setdefault(fingerprint.sha256, row)
        if original != row:
            links.append(Link(original, row, EXACT, 1.0))
    return list(first.values()), links


def _near_copies(rows: list[int], fingerprints: list[Fingerprint], progress: bool) -> list[Link]:
    """Links between images of different pixels; the better one where a pair has several."""
    if len(rows) < 2:
        return []
    textures = [fingerprint.texture for fingerprint in fingerprints]
    matches = _candidates(textures, progress)
    best: dict[tuple[int, int], Link] = {}
    for number, agreement in enumerate(_compared(textures, matches, progress)):
        one, other, view, is_mirrored = _unpack(matches, number, len(rows))
        kind = _judge(agreement, is_whole=view == 0 and not is_mirrored)
        if agreement is None or kind is None:
            continue
        pair = min(rows[one], rows[other]), max(rows[one], rows[other])
        link = Link(*pair, kind, round(agreement.score, 4), is_mirrored)
        if pair not in best or link.score > best[pair].score:
            best[pair] = link
    return [best[pair] for pair in sorted(best)]


def _candidates(textures: list[np.ndarray], progress: bool) -> Matches:
    """Query n is image n as it is, query N + n the same mirrored; entries are N times all views."""
    filed = hashes.hash_views(textures)
    wholes = filed[:, 0]
    count = np.arange(len(textures))
    return nearest(
        filed.reshape(-1, hashes.LENGTH),
        count.repeat(len(hashes.VIEWS)),
        np.concatenate([wholes, hashes.mirrored(wholes)]),
        np.tile(count, 2),
        most=CANDIDATES,
        least=LEAST_HASH,
        progress=progress,
    )


def _unpack(matches: Matches, number: int, count: int) -> tuple[int, int, int, bool]:
    """Of a match: the image, the other image, the view of the other, whether it is mirrored."""
    query, entry = int(matches.query[number]), int(matches.entry[number])
    other, view = divmod(entry, len(hashes.VIEWS))
    return query % count, other, view, query >= count


def _compared(
    textures: list[np.ndarray], matches: Matches, progress: bool
) -> Iterator[Agreement | None]:
    """Aligns every match, in order."""

    def compare(first: int) -> list[Agreement | None]:
        found = []
        for number in range(first, min(first + _CHUNK, total)):
            one, other, view, is_mirrored = _unpack(matches, number, len(textures))
            texture = np.ascontiguousarray(textures[one][:, :: -1 if is_mirrored else 1])
            found.append(align(texture, textures[other], hashes.VIEWS[view]))
        return found

    total = len(matches.query)
    disable = None if progress else True
    with tqdm(total=total, desc="comparing images", unit="pair", disable=disable) as bar:
        for chunk in in_threads(compare, range(0, total, _CHUNK)):
            yield from chunk
            bar.update(len(chunk))


def _judge(agreement: Agreement | None, *, is_whole: bool) -> str | None:
    """What two images are to each other, or None for nothing."""
    if agreement is None:
        return None
    least, typical = (WHOLE_SCORE, WHOLE_TYPICAL) if is_whole else (PART_SCORE, PART_TYPICAL)
    if agreement.score < least or agreement.typical < typical:
        return None
    return COPY if agreement.score >= COPY_SCORE else SCENE


def _describe(
    components: list[list[int]], links: list[Link], fingerprints: dict[int, Fingerprint]
) -> tuple[Group, ...]:
    home = {row: number for number, rows in enumerate(components) for row in rows}
    inside: dict[int, list[Link]] = collections.defaultdict(list)
    for link in links:
        if link.first in home and home[link.first] == home.get(link.second):
            inside[home[link.first]].append(link)
    digits = max(3, len(str(len(components))))
    groups = []
    for number, rows in enumerate(components):
        # Python's max takes the first of equals.
        reference = max(rows, key=lambda row: fingerprints[row].width * fingerprints[row].height)
        ordered = [reference, *(row for row in rows if row != reference)]
        roles = _roles(ordered, inside[number], fingerprints)
        name = f"g{number + 1:0{digits}d}"
        groups.append(Group(name, tuple(ordered), roles, tuple(inside[number])))
    return tuple(groups)


def _roles(
    rows: list[int], links: list[Link], fingerprints: dict[int, Fingerprint]
) -> tuple[str, ...]:
    """The role of each row of a group, the reference first."""
    roles = ["reference"]
    seen = {fingerprints[rows[0]].sha256: "reference"}
    for row in rows[1:]:
        digest = fingerprints[row].sha256
        if digest in seen:
            roles.append(EXACT)
            continue
        # Links name the first row with a digest; one of equal pixels stands for the other.
        equal = {other for other in rows if fingerprints[other].sha256 == digest}
        own = [link for link in links if link.kind != EXACT and {link.first, link.second} & equal]
        strongest = max(own, key=lambda link: (link.kind == COPY, link.score))
        role = "mirrored" if strongest.mirrored else strongest.kind
        seen[digest] = role
        roles.append(role)
    return tuple(roles)


def conflicts(groups: Groups, records: Sequence[Record]) -> list[Group]:
    """Returns the groups whose images carry more than one label."""
    return groups.straddling([record.label for record in records])
