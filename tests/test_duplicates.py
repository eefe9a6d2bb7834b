"""Copies are found however they were altered, and nothing else is taken for one."""

import dataclasses

import numpy as np
import pytest

from jaxbusi.data import busi, duplicates, fingerprints, hashes
from jaxbusi.data.alignment import align
from jaxbusi.data.grouping import COPY, EXACT, SCENE, Group, Groups, Link, join
from jaxbusi.data.images import ImageError, decode_image
from jaxbusi.data.phantoms import draw_phantom, write_phantoms
from tests.planted import WAYS, encode, record

CONFLICTS = (  # Known beforehand: b = benign, m = malignant, n = normal, the file's number.
    {"b131", "b42", "m51"},
    {"b164", "b85", "m52"},
    {"b333", "m77"},
    {"b399", "m93"},
    {"b406", "m94"},
    {"b433", "b435", "m145"},
    {"b269", "n1"},
    {"b437", "n34"},
)


@pytest.fixture(scope="module")
def pictures():
    """Twelve phantoms, uint8[H, W, 3], four of each class."""
    drawn = [draw_phantom(np.random.default_rng([7, n]), n % 3, 240)[0] for n in range(12)]
    return [np.repeat(gray[:, :, None], 3, axis=2) for gray in drawn]


@pytest.fixture
def records(pictures):
    return [record(f"p{n:02d}.png", picture, n % 3) for n, picture in enumerate(pictures)]


def members(groups):
    return [[groups.names[row] for row in group.rows] for group in groups.groups]


def test_different_pictures_are_in_no_group(records):
    groups = duplicates.find_groups(records)
    assert groups.groups == ()
    assert groups.rows() == [(r.name, "", "single") for r in records]
    assert set(groups.of().values()) == {""}


@pytest.mark.parametrize("way", WAYS)
def test_an_altered_copy_is_found(records, pictures, way):
    copy = record("copy", WAYS[way](np.random.default_rng(3), pictures[4]))
    groups = duplicates.find_groups([*records, copy])
    assert [set(names) for names in members(groups)] == [{"p04.png", "copy"}]
    roles = {name: role for name, _, role in groups.rows()}
    assert {roles["p04.png"], roles["copy"]} == {
        "reference",
        "mirrored" if way == "mirror" else COPY,
    }
    assert groups.groups[0].links[0].mirrored == (way == "mirror")


def test_equal_pixels_are_exact_copies_whatever_the_file(records, pictures):
    gray = pictures[4][..., 0]
    files = [encode(gray, "BMP"), encode(pictures[4], "TIFF"), encode(gray, "PNG")]
    copies = [record(f"copy{n}", data) for n, data in enumerate(files)]
    near = record("near", WAYS["jpeg"](np.random.default_rng(0), pictures[4]))
    groups = duplicates.find_groups([*records, *copies, near])
    assert members(groups) == [["p04.png", "copy0", "copy1", "copy2", "near"]]
    assert groups.groups[0].roles == ("reference", EXACT, EXACT, EXACT, COPY)
    assert {link.score for link in groups.groups[0].links if link.kind == EXACT} == {1.0}


def test_the_largest_image_is_the_reference(records, pictures):
    small = pictures[4][::2, ::2]
    groups = duplicates.find_groups([record("a", small), record("b", small), *records])
    assert members(groups) == [["p04.png", "a", "b"]]
    assert groups.groups[0].roles == ("reference", COPY, EXACT)


def test_a_file_that_cannot_be_read_is_listed_and_the_rest_finished(records, pictures):
    broken = record("broken.png", encode(pictures[4])[:999])
    absent = dataclasses.replace(records[0], name="absent.png", image=Nowhere())
    groups = duplicates.find_groups([broken, *records, absent, record("copy", pictures[4])])
    assert [e.name for e in groups.unreadable.values()] == ["broken.png", "absent.png"]
    assert all(isinstance(error, ImageError) for error in groups.unreadable.values())
    assert members(groups) == [["p04.png", "copy"]]
    roles = {name: (group, role) for name, group, role in groups.rows()}
    assert roles["broken.png"] == roles["absent.png"] == ("", "unreadable")
    assert roles["copy"] == ("g001", EXACT)


class Nowhere:
    def read_bytes(self):
        raise FileNotFoundError(2, "No such file or directory")


def test_blank_images_are_copies_only_where_they_are_equal():
    images = [np.full((50, 60, 3), level, np.uint8) for level in (0, 90, 90)]
    images += [np.zeros((1, 1, 3), np.uint8), np.zeros((50, 61, 3), np.uint8)]
    groups = duplicates.find_groups([record(f"{n}", image) for n, image in enumerate(images)])
    assert members(groups) == [["1", "2"]]


def test_sets_of_no_and_of_one_image(records):
    assert duplicates.find_groups([]).groups == ()
    assert duplicates.find_groups(records[:1]).rows() == [("p00.png", "", "single")]


def test_names_that_repeat_are_refused(records):
    with pytest.raises(ValueError, match="not unique"):
        duplicates.find_groups([records[0], records[0]])


def test_groups_depend_on_the_images_alone(records, pictures):
    rng = np.random.default_rng(1)
    copies = [record(f"{way} copy", WAYS[way](rng, pictures[n])) for n, way in enumerate(WAYS)]
    first = duplicates.find_groups([*records, *copies])
    assert len(first.groups) == 6
    assert duplicates.find_groups([*records, *copies]) == first
    backwards = duplicates.find_groups([*records, *copies][::-1])
    assert {frozenset(m) for m in members(backwards)} == {frozenset(m) for m in members(first)}


def test_groups_that_straddle_labels_or_folders():
    groups = Groups(
        names=tuple("abcde"),
        groups=(
            Group("g001", (0, 1), ("reference", EXACT), ()),
            Group("g002", (2, 4), ("reference", COPY), ()),
        ),
    )
    assert [g.name for g in groups.straddling([0, 1, 0, 0, 0])] == ["g001"]
    assert [g.name for g in groups.straddling("aaaab")] == ["g002"]
    assert groups.straddling([0] * 5) == []
    assert groups.of() == {"a": "g001", "b": "g001", "c": "g002", "d": "", "e": "g002"}


def test_conflicts_are_groups_of_several_labels(records, pictures):
    copies = [record("wrong", pictures[4], 2), record("right", pictures[5], 2)]
    groups = duplicates.find_groups([*records, *copies])
    assert len(groups.groups) == 2
    (conflict,) = duplicates.conflicts(groups, [*records, *copies])
    assert [groups.names[row] for row in conflict.rows] == ["p04.png", "wrong"]


def test_a_chain_of_scenes_stays_short_and_one_of_copies_does_not():
    pairs = [(n, n + 1) for n in range(9)]
    scenes = [Link(*pair, SCENE, 0.6 - pair[0] / 100) for pair in pairs]
    components, refused = join(10, scenes)
    assert max(map(len, components)) == 3
    assert refused
    assert all(link in scenes for link in refused)
    copies = [Link(*pair, COPY, 0.9) for pair in pairs]
    assert join(10, copies) == ([list(range(10))], [])


def test_one_weak_link_does_not_join_two_groups():
    copies = [Link(0, 1, COPY, 0.9), Link(1, 2, COPY, 0.9), Link(0, 2, COPY, 0.9)]
    copies += [Link(link.first + 3, link.second + 3, COPY, 0.9) for link in copies]
    weak = Link(2, 3, SCENE, 0.7)
    assert join(7, [*copies, weak]) == ([[0, 1, 2], [3, 4, 5]], [weak])
    second = Link(1, 4, SCENE, 0.6)
    assert join(7, [*copies, weak, second]) == ([[0, 1, 2, 3, 4, 5]], [])


def test_the_hash_of_a_mirror_image_and_of_a_crop(pictures):
    gray = pictures[4][..., 0]
    height, width = gray.shape
    corner = gray[: round(0.72 * height), : round(0.72 * width)]
    images = [gray, np.ascontiguousarray(gray[:, ::-1]), corner, pictures[5][..., 0]]
    found = hashes.hash_views([fingerprints.texture(image) for image in images]).astype(np.float32)
    whole = found[:, 0]
    np.testing.assert_allclose(np.linalg.norm(found, axis=2), 1, atol=2e-3)
    assert whole[1] @ hashes.mirrored(whole[0]) > 0.999
    likeness = found[0] @ whole[2]
    assert hashes.VIEWS[likeness.argmax()] == (0.0, 0.0, 0.72, 0.72)
    assert likeness.max() > 0.85 > 0.6 > (found[0] @ whole[3]).max()


def test_an_alignment_finds_what_was_cropped(pictures):
    gray = pictures[4][..., 0]
    height, width = gray.shape
    part = gray[round(0.05 * height) : round(0.9 * height), round(0.1 * width) :]
    textures = [fingerprints.texture(image) for image in (part, gray, pictures[5][..., 0])]
    view = (0.15, 0.075, 0.85, 0.85)
    same = align(textures[0], textures[1], view)
    assert same.score > 0.9
    assert same.typical > 0.9
    other = align(textures[0], textures[2], view)
    assert other is None or other.score < 0.5


@pytest.fixture(scope="module")
def real(busi_root):
    """Records, fingerprints and groups of real BUSI."""
    records = busi.read_folder(busi_root)
    found = fingerprints.read_fingerprints(records)
    return records, found, duplicates.group_fingerprints([r.name for r in records], found)


def test_the_known_conflicts_of_busi_are_found(real):
    records, _, groups = real

    def short(row):  # 'benign/benign (131).png' is b131.
        name = records[row].name
        return name[0] + name.split("(")[1].split(")")[0]

    found = [{short(row) for row in g.rows} for g in duplicates.conflicts(groups, records)]
    for known in CONFLICTS:
        assert any(known <= group for group in found), known
    assert len(found) == len(CONFLICTS)
    sizes = [len(group.rows) for group in groups.groups]
    assert sum(sizes) >= 300  # measured 351 in 153 groups
    assert max(sizes) <= 15  # measured 7
    (exact,) = (link for group in groups.groups for link in group.links if link.kind == EXACT)
    assert {short(exact.first), short(exact.second)} == {"b433", "m145"}


@pytest.fixture(scope="module")
def background(request, tmp_path_factory):
    """Real BUSI where it is, else phantoms: records, fingerprints, groups."""
    try:
        return request.getfixturevalue("real")
    except pytest.skip.Exception:
        folder = tmp_path_factory.mktemp("background") / "phantoms"
        write_phantoms(folder, count=220, seed=11, size=200)
        records = busi.read_folder(folder)
        found = fingerprints.read_fingerprints(records)
        return records, found, duplicates.group_fingerprints([r.name for r in records], found)


def test_planted_copies_are_found_and_nothing_else(background):
    """Of 200 images that are alone in their set, each altered in one of six ways.

    A pair counts as reported where both images are in one group and one of them is planted. As the
    originals were in no group before, the only right pair of a planted image is its original.
    """
    records, found, groups = background
    rng = np.random.default_rng(0)
    alone = [n for n, (_, _, role) in enumerate(groups.rows()) if role == "single"]
    chosen = rng.choice(alone, 200, replace=False)
    planted = []
    for number, row in enumerate(chosen):
        image = decode_image(records[row].image.read_bytes(), records[row].name)
        way = list(WAYS.values())[number % len(WAYS)]
        planted.append(record(f"planted/{number}", way(rng, image), records[row].label))
    names = [r.name for r in [*records, *planted]]
    everything = [*found, *fingerprints.read_fingerprints(planted)]
    after = duplicates.group_fingerprints(names, everything)
    truth = {(records[row].name, p.name) for row, p in zip(chosen, planted, strict=True)}
    reported = {
        (names[min(a, b)], names[max(a, b)])
        for group in after.groups
        for a in group.rows
        for b in group.rows
        if a != b and max(a, b) >= len(records)
    }
    right = len(truth & reported)
    assert right / len(truth) >= 0.95  # measured 1.000 on BUSI
    assert right / len(reported) >= 0.95  # measured 1.000 on BUSI
