"""Sets that are a CSV file: what is read, each refusal in one line, and groups of patients."""

import os

import numpy as np
import pytest
from PIL import Image

from jaxbusi.data import busi, grouping
from jaxbusi.data.tables import read_table
from jaxbusi.errors import UserError


@pytest.fixture
def folder(tmp_path):
    """Six images in two folders."""
    for number in range(6):
        path = tmp_path / "hospital" / "ab"[number % 2] / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), 40 * number, np.uint8)).save(path)
    return tmp_path / "hospital"


def write(folder, *lines, encoding="utf-8"):
    path = folder / "labels.csv"
    path.write_text("\n".join(lines) + "\n", encoding=encoding)
    return path


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_a_table_gives_records_by_class_whatever_the_order_of_its_lines(folder, encoding, caplog):
    path = write(
        folder,
        "image,age, Label ,patient",
        "b/5.png,40,normal,",
        "a/2.png,50, Malignant ,p7",
        '"./a/0.png",60,BENIGN,p1',
        "",
        "b/1.png,70,benign,p1",
        encoding=encoding,
    )
    with caplog.at_level("INFO"):
        records = busi.read_records(path)
    assert [(r.name, r.label, r.patient, r.masks) for r in records] == [
        ("a/0.png", 0, "p1", ()),
        ("b/1.png", 0, "p1", ()),
        ("a/2.png", 1, "p7", ()),
        ("b/5.png", 2, "", ()),
    ]
    assert records[2].image.read_bytes() == (folder / "a" / "2.png").read_bytes()
    assert "labels.csv: 4 images (2 benign, 1 malignant, 1 normal)" in caplog.text


def test_a_table_may_lack_a_class_and_patients_where_it_is_not_trained_on(folder):
    path = write(folder, "image,label", "a/0.png,benign", "b/1.png,malignant")
    records = busi.read_records(path, require_all=False, key="config.data.external")
    assert [(r.label, r.patient) for r in records] == [(0, ""), (1, "")]
    with pytest.raises(UserError, match=r"labels.csv has no image of class normal; every class"):
        busi.read_records(path)


@pytest.mark.parametrize(
    ("lines", "message"),
    [
        (["image,name", "a/0.png,x"], r" has no column label \(found 'image,name'\); its first"),
        (["image;label", "a/0.png;benign"], r" has no column image and label .* by commas"),
        ([], r" has no column image and label \(found ''\)"),
        (["image,label"], r" lists no image; add a line"),
        (["image,label,label", "a/0.png,benign,normal"], r" has two columns label"),
        (["image,label", "a/0.png,benin"], r", line 2: label 'benin' .* did you mean benign\?"),
        (["image,label", "a/0.png,1"], r", line 2: label '1' .* normal; write one of them"),
        (["image,label", "a/0.png"], r", line 2: label '' is none of"),
        (["image,label", "", "a/9.png,benign"], r", line 3: there is no file .*a/9.png; correct"),
        (["image,label", r"a\0.png,benign"], r", line 2: .* \(folders are separated by forward"),
        (["image,label", "a,benign"], r", line 2: there is no file"),
        (
            ["image,label", "a/0.png,benign", "b/1.png,benign", "a//0.png,normal"],
            r", line 4: 'a/0.png' is listed a second time, first in line 2",
        ),
        (["image,label", "b/../a/0.png,benign", "a/0.png,benign"], r", line 3: .* second time"),
        (["image,label", " ,benign"], r", line 2 names no image"),
        (["image,label", "/a/0.png,benign"], r", line 2: '/a/0.png' is an absolute path"),
        (["image,label", r"C:\a\0.png,benign"], r", line 2: .* is an absolute path"),
        (["image,label", "../labels.csv,benign"], r", line 2: .* leads out of the folder"),
        (["image,label", '"a\n0.png",benign'], r", line 3: the file name 'a\\n0.png' cannot be"),
        (["image,label", "a/0,1.png,benign"], r", line 2 has 3 cells for 2 columns; put a name"),
        (["image,label", '"a/0.png,benign'], r" cannot be read as CSV \(unexpected end of data\)"),
    ],
)
def test_a_wrong_table_is_one_line(folder, lines, message):
    path = write(folder, *lines)
    with pytest.raises(UserError, match=message) as caught:
        busi.read_records(path, require_all=False, key="config.data.external")
    assert str(caught.value).startswith(f"config.data.external={path}")
    assert "\n" not in str(caught.value)


def test_a_link_out_of_the_folder_and_one_to_an_image_that_is_listed(folder):
    outside = folder.parent / "outside.png"
    outside.write_bytes((folder / "a" / "0.png").read_bytes())
    (folder / "out.png").symlink_to(outside)
    (folder / "far").symlink_to(folder.parent)
    (folder / "same.png").symlink_to("a/0.png")
    (folder / "round.png").symlink_to("round.png")
    for name in ("out.png", "far/outside.png"):
        with pytest.raises(UserError, match=f"line 2: '{name}' leads out of the folder"):
            read_table(write(folder, "image,label", f"{name},benign"))
    with pytest.raises(UserError, match=r"line 3: 'same.png' is listed a second time"):
        read_table(write(folder, "image,label", "a/0.png,benign", "same.png,benign"))
    with pytest.raises(UserError, match=r"line 2: .*round.png"):
        read_table(write(folder, "image,label", "round.png,benign"))


def test_a_folder_that_is_reached_by_a_link_is_the_folder(folder):
    write(folder, "image,label", "a/0.png,benign")
    (folder.parent / "link").symlink_to(folder)
    path = folder.parent / "link" / "labels.csv"
    assert [record.name for record in read_table(path, require_all=False)] == ["a/0.png"]


def test_files_that_are_no_table(folder):
    with pytest.raises(UserError, match=r"root=.*none.csv cannot be read as CSV \(No such file"):
        busi.read_records(folder / "none.csv")
    path = write(folder, "image,label", "a/0.png,benign", encoding="utf-16")
    with pytest.raises(UserError, match=r"cannot be read as CSV .* give a file in UTF-8"):
        busi.read_records(path)
    if os.geteuid():
        path.chmod(0)
        with pytest.raises(UserError, match=r"cannot be read as CSV \(Permission denied\)"):
            busi.read_records(path)


def test_a_folder_whose_name_ends_in_csv_is_a_folder(folder):
    named = folder.parent / "set.csv"
    (named / "benign").mkdir(parents=True)
    (folder / "a" / "0.png").rename(named / "benign" / "x.png")
    assert [r.name for r in busi.read_records(named, require_all=False)] == ["benign/x.png"]


def test_units_are_connected_components_of_patients_and_copies():
    copies = {"a": "g1", "b": "g1", "e": "g2", "f": "g2"}
    patients = {"b": "p", "c": "p", "d": "q", "h": "r", "i": "r"}
    found = grouping.unite("abcdefghi", [copies, patients])
    assert found == dict(
        zip("abcdefghi", ["g1"] * 3 + [""] + ["g2"] * 2 + ["", "h", "h"], strict=True)
    )
    both = grouping.unite("abcdef", [copies, {"c": "p", "a": "p", "f": "p"}])
    assert len({both[name] for name in "abcef"}) == 1
    assert both["d"] == ""
    assert grouping.unite("abef", [copies]) == copies
