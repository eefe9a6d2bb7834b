"""What is to be predicted: files, folders, patterns and CSV lists, as paths in a fixed order."""

import hashlib
import os
import tracemalloc

import pytest

from jaxbusi.data import inputs
from jaxbusi.data.images import ImageError
from jaxbusi.data.inputs import Reader, digest, find_inputs, shown
from jaxbusi.errors import UserError
from scripts.fuzz_dicom import encode


@pytest.fixture
def here(tmp_path, monkeypatch):
    """A folder to work in, with images, and with much that is none."""
    monkeypatch.chdir(tmp_path)
    for name in (
        *("b/2.PNG", "b/10.png", "b/deep/er/3.jpeg", "b/.hidden.png", "b/.cache/4.png"),
        *("b/._2.png", "b/2_mask.png", "b/2_mask_1.png", "b/notes.txt", "b/masks/2.png"),
        *("a/[1].tif", "a/x.dcm"),
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()
    return tmp_path


IN_B = ["b/10.png", "b/2.PNG", "b/deep/er/3.jpeg"]


@pytest.mark.parametrize(
    ("given", "found"),
    [
        (["b"], IN_B),
        (["./b/"], IN_B),
        (["b/2.PNG", "b", "b"], IN_B),
        (["."], ["a/[1].tif", "a/x.dcm", *IN_B]),
        (["b/*.png"], ["b/10.png"]),  # a mask is none, hidden files neither
        (["b/*"], IN_B),  # the folders in it are searched
        (["b/**/*.*"], IN_B),
        (["b/masks/*.png"], ["b/masks/2.png"]),  # as it says so
        (["b/masks"], ["b/masks/2.png"]),
        (["a/[1].tif"], ["a/[1].tif"]),  # a file of that name comes before a pattern
        (["a/x.dcm"], ["a/x.dcm"]),  # whatever it may be
    ],
)
def test_what_is_found(here, given, found):
    assert find_inputs(given) == [name.encode() for name in found]


def test_a_path_begins_as_it_was_given(here):
    assert find_inputs([str(here / "a")])[0] == os.fsencode(here / "a" / "[1].tif")


def test_a_list(here):
    (here / "b" / "list.csv").write_text(
        "\ufeffpatient, Image\n1,10.png\n2, deep/er/3.jpeg \n3,gone.png\n3,2_mask.png\n1,./10.png\n"
    )
    names = ["b/10.png", "b/2_mask.png", "b/deep/er/3.jpeg", "b/gone.png"]
    assert find_inputs(["b/list.csv"]) == [name.encode() for name in names]
    os.chdir("b")
    assert find_inputs(["list.csv"]) == [name[2:].encode() for name in names]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("file\nx.png\n", r"INPUT l\.csv has no column image \(found 'file'\)"),
        ("", "has no column image"),
        ("image\n", "lists no image"),
        ("image\n\n../b/10.png\n", r"line 3: '\.\./b/10\.png' leads out"),
        ("image\nlink/10.png\n", "line 2: 'link/10.png' leads out"),
        ("image\na/..\n", "leads out"),
        ("image\nlink.png\n", "line 2: 'link.png' leads out"),
        ("image\n/etc/x.png\n", "absolute path"),
        ("image,n\n,2\n", "line 2 names no image"),
        ("image\na,b.png\n", "double quotes"),
        ("image,image\na,b\n", "two columns image"),
        ('image\n"a\n', "cannot be read as CSV"),
    ],
)
def test_broken_lists(tmp_path, monkeypatch, content, message):
    (tmp_path / "in" / "a").mkdir(parents=True)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "10.png").touch()
    (tmp_path / "in" / "link").symlink_to(tmp_path / "b")
    (tmp_path / "in" / "link.png").symlink_to(tmp_path / "b" / "10.png")
    (tmp_path / "in" / "l.csv").write_text(content)
    monkeypatch.chdir(tmp_path / "in")
    with pytest.raises(UserError, match=message):
        find_inputs(["l.csv"])


def test_links_within_the_folder_of_a_list_are_fine(here):
    (here / "b" / "near.png").symlink_to("10.png")
    (here / "other").symlink_to("b")
    (here / "b" / "list.csv").write_text("image\nnear.png\n")
    assert find_inputs(["other/list.csv"]) == [b"other/near.png"]


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ("none.png", "'none.png' does not exist"),
        ("", "'' does not exist"),
        ("none/*.png", r"INPUT none/\*\.png holds no image \(png, jpg"),
        ("b/*_mask.png", "only 1 masks"),
        ("empty", "holds no image"),
        ("list.csv", "does not exist"),
    ],
)
def test_what_leads_to_no_image_is_refused(here, given, message):
    (here / "empty").mkdir()
    with pytest.raises(UserError, match=message) as error:
        find_inputs(["b", given])
    assert "\n" not in str(error.value)


def test_a_folder_that_cannot_be_searched(here, monkeypatch):
    def refuse(folder):
        raise PermissionError(13, "Permission denied", folder)

    monkeypatch.setattr(os, "scandir", refuse)
    with pytest.raises(UserError, match=r"cannot read the folder b \(Permission denied\)"):
        find_inputs(["b"])


def test_a_name_that_is_no_text(here):
    (here / os.fsdecode(b"a/\xff.png")).touch()
    found = find_inputs(["a"])
    assert found == [b"a/[1].tif", b"a/x.dcm", b"a/\xff.png"]
    assert [shown(path) for path in found] == ["a/[1].tif", "a/x.dcm", r"a/\xff.png"]
    assert shown("a/ü.png".encode()) == "a/ü.png"


def test_each_frame_of_a_clip_has_a_place(here):
    clip = encode([bytes(48)] * 11, (6, 8))
    for name in ("a/IM", "a/x.dcm", "a/any.thing"):
        (here / name).write_bytes(clip)
    found = [shown(image) for image in find_inputs(["a/any.thing", "a"])]
    frames = [f"{name}#{n}" for name in ("a/IM", "a/any.thing", "a/x.dcm") for n in range(1, 12)]
    assert found == [*frames[:11], "a/[1].tif", *frames[11:]]
    with Reader() as reader:
        assert reader.read(b"a/IM\0" + b"11", "x").shape == (6, 8, 3)
        with pytest.raises(ImageError, match="is a clip of 11 frames"):
            reader.read(b"a/IM", "x")


def test_the_digest_tells_lists_apart():
    assert digest([b"a", b"b"]) == hashlib.sha256(b"a\0b\0").hexdigest()
    assert digest([b"ab"]) != digest([b"a", b"b"]) != digest([b"b", b"a"])


def test_a_million_paths_fit_in_200_mib(monkeypatch):
    """Measured on a twentieth: 70 characters each take less than 200 bytes at the highest."""
    count = 50_000
    names = (
        f"archive/hospital-{n % 97:03d}/2026/examination-{n:09d}/frame-0001.png"
        for n in range(count)
    )
    monkeypatch.setattr(inputs, "_search", lambda _: names)
    tracemalloc.start()
    try:
        found = find_inputs(["archive"])
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    assert len(found) == count
    assert len(found[0]) >= 60
    assert peak / count < 200 * 2**20 / 1_000_000
