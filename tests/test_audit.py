"""The command end to end on small folders: what it writes, how it refuses, what the page shows."""

import csv
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest

from jaxbusi import audit
from jaxbusi.data.phantoms import write_phantoms
from jaxbusi.evaluation import audit_page
from jaxbusi.evaluation.shortcuts import measure_shortcut
from tests.test_report import Page

BAD = "<script>alert('x')<img src=x onerror=alert(1)> & \"b\".png"


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Two sets: copies inside the first, one of them under another label, and one in the second."""
    base = tmp_path_factory.mktemp("sets")
    first, second = base / "first", base / "second"
    write_phantoms(first, count=15, seed=1, size=160)
    write_phantoms(second, count=6, seed=2, size=160)
    shutil.copy(first / "benign" / "benign (1).png", first / "malignant" / BAD)
    shutil.copy(first / "benign" / "benign (2).png", first / "benign" / "same.png")
    image = cv2.imread(str(first / "normal" / "normal (1).png"))
    cv2.imwrite(str(second / "normal" / "elsewhere.jpg"), image[4:, :-5])
    image = cv2.imread(str(first / "benign" / "benign (3).png"))
    cv2.imwrite(str(first / "benign" / "mirror.png"), np.ascontiguousarray(image[:, ::-1]))
    (second / "benign" / "torn.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    return first, second


@pytest.fixture(scope="module")
def out(folders, tmp_path_factory):
    out = tmp_path_factory.mktemp("audit")
    audit.audit([str(folder) for folder in folders], out)
    return out


@pytest.fixture(scope="module")
def document(out):
    return json.loads((out / "audit.json").read_text(encoding="utf-8"))


@pytest.fixture(scope="module")
def written(out):
    return (out / "audit.html").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def page(written):
    return Page(written)


def run(monkeypatch, *arguments):
    monkeypatch.setattr(sys, "argv", ["audit", *map(str, arguments)])
    audit.main()


def refusal(monkeypatch, capsys, *arguments):
    with pytest.raises(SystemExit) as caught:
        run(monkeypatch, *arguments)
    assert caught.value.code == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.count("\n") == 1
    return captured.err


def test_groups_csv_has_a_line_for_every_image(out):
    with (out / "groups.csv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file)
    assert header == ["image", "group", "role"]
    assert len(lines) == 18 + 8
    assert len({image for image, _, _ in lines}) == len(lines)
    together = {}
    for image, group, role in lines:
        assert (group == "") == (role in ("single", "unreadable"))
        together.setdefault(group, {})[image] = role
    del together[""]
    assert sorted(together.values(), key=str) == sorted(
        [
            {"benign/benign (1).png": "reference", f"malignant/{BAD}": "exact"},
            {"benign/benign (2).png": "reference", "benign/same.png": "exact"},
            {"benign/benign (3).png": "reference", "benign/mirror.png": "mirrored"},
            {"normal/normal (1).png": "reference", "external/normal/elsewhere.jpg": "copy"},
        ],
        key=str,
    )
    assert ["external/benign/torn.png", "", "unreadable"] in lines


def test_the_document_says_what_was_found_worst_first(document, folders):
    first, second = document["folders"]
    assert (first["path"], first["prefix"]) == (str(folders[0]), "")
    assert (second["name"], second["prefix"]) == ("second", "external/")
    assert first["labels"] == {"benign": 10, "malignant": 5, "normal": 3}
    assert (second["images"], second["unreadable"]) == (8, 1)
    assert document["counts"] == {
        "images": 26,
        "readable": 25,
        "groups": 4,
        "in_groups": 8,
        "largest": 2,
        "conflicts": 1,
        "across": 1,
        "exact": 2,
    }
    flags = [(g["conflict"], g["across"], g["exact"]) for g in document["groups"]]
    assert flags == [
        (True, False, True),
        (False, True, False),
        (False, False, True),
        (False, False, False),
    ]
    assert [e["image"] for e in document["unreadable"]] == ["external/benign/torn.png"]
    # Three pairs inside the first folder: where one of a pair is in the test part, the other is in
    # the training part with 80 %.
    assert document["random_split_leak"] == pytest.approx(6 * 0.8 / 18)
    assert document["marks"]["count"] == document["colour"]["count"] == 0
    assert document["refused_links"] == []
    assert document["shortcuts"] == {"size": None, "overlays": None}  # too few normal images


def test_the_page_shows_every_group_once_worst_first(page, document):
    groups = [tag["aria-label"] for tag in page.all("article")]
    assert groups == [f"Group {group['name']}" for group in document["groups"]]
    assert len(page.all("figure")) == len(page.all("img")) == 8
    assert all(image["alt"] for image in page.all("img"))
    assert "In groups 8 of 25 images share 4 groups" in page.text
    assert "Labels that contradict each other: 1 group" in page.text
    assert "Copies across folders: 1 group" in page.text
    assert "Exact copies: 1 group" in page.text
    assert "Near-copies and other frames of one place: 1 group" in page.text
    assert "benign/mirror.png" in page.text
    assert "external/benign/torn.png is not a PNG, JPEG" in page.text
    assert "Research use only." in page.text


def test_the_page_is_self_contained_and_file_names_are_text(written, page):
    assert Path(audit_page.__file__).with_name("page.css").read_text().strip() in written
    assert "<script" not in written
    assert "<img src=x" not in written
    assert BAD in page.text
    assert not {"script", "link", "iframe", "object"} & {tag for tag, _ in page.tags}
    assert not any(name.startswith("on") for _, attributes in page.tags for name in attributes)
    assert all(i["src"].startswith("data:image/jpeg;base64,") for i in page.all("img"))
    assert all(link["href"].startswith("#") for link in page.all("a"))
    assert not re.search(r"url\(|@import", written)
    assert any("default-src 'none'" in str(meta.get("content")) for meta in page.all("meta"))
    identifiers = [attributes["id"] for _, attributes in page.tags if "id" in attributes]
    assert len(set(identifiers)) == len(identifiers)
    assert {link["href"][1:] for link in page.all("a")} <= set(identifiers)


def test_the_same_folders_give_the_same_files(folders, out, tmp_path):
    audit.audit([str(folder) for folder in folders], tmp_path)
    for name in ("groups.csv", "audit.json", "audit.html"):
        assert (tmp_path / name).read_bytes() == (out / name).read_bytes()
    assert sorted(path.name for path in tmp_path.iterdir()) == [
        "audit.html",
        "audit.json",
        "groups.csv",
    ]


def test_a_page_of_very_many_groups_says_that_it_is_cut(folders, tmp_path, monkeypatch):
    monkeypatch.setattr(audit_page, "MOST_GROUPS", 1)
    monkeypatch.setattr(audit_page, "MOST_IMAGES", 1)
    audit.audit([str(folders[0])], tmp_path)
    page = Page((tmp_path / "audit.html").read_text(encoding="utf-8"))
    assert len(page.all("article")) == len(page.all("img")) == 1
    assert "Exact copies: 1 group" in page.text
    assert "None of them is shown; groups.csv lists all." in page.text
    assert "and 1 more, in groups.csv" in page.text


def test_a_set_without_copies(tmp_path, phantoms, monkeypatch, capsys):
    run(monkeypatch, phantoms, "--out", tmp_path / "new" / "audit")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("30 images, 0 of them in 0 groups")
    assert lines[-1] == f"open {tmp_path / 'new' / 'audit' / 'audit.html'}"
    page = Page((tmp_path / "new" / "audit" / "audit.html").read_text(encoding="utf-8"))
    assert "width and height alone: " in "".join(lines)
    assert "No copies and no near-copies were found among the 30 readable images." in page.text


def test_refusals_are_one_line_and_status_2(folders, tmp_path, monkeypatch, capsys):
    first = folders[0]
    gone = tmp_path / "gone"
    assert "gone does not exist" in refusal(monkeypatch, capsys, gone, "--out", tmp_path / "a")
    assert "--help says more" in refusal(monkeypatch, capsys, first)
    assert "--help says more" in refusal(monkeypatch, capsys, "--out", tmp_path / "a")
    same = refusal(monkeypatch, capsys, first, f"{first}/", "--out", tmp_path / "a")
    assert "is given twice" in same
    (tmp_path / "file").write_text("")
    assert "cannot be written" in refusal(monkeypatch, capsys, first, "--out", tmp_path / "file")
    (tmp_path / "bad" / "benign").mkdir(parents=True)
    (tmp_path / "bad" / "benign" / "x.png").write_bytes(b"nothing")
    none = refusal(monkeypatch, capsys, tmp_path / "bad", "--out", tmp_path / "a")
    assert "none of the images can be read; the first: benign/x.png" in none
    assert not (tmp_path / "a").exists()


def test_the_command_in_a_process_of_its_own(folders, tmp_path):
    command = [sys.executable, "-m", "jaxbusi.audit", *map(str, folders), "--out", str(tmp_path)]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "groups with more than one label: 1; across folders: 1" in done.stdout
    assert "files that cannot be read: 1" in done.stdout
    assert "Traceback" not in done.stderr


def test_a_shortcut_is_measured_where_there_is_one_and_not_where_there_is_none():
    rng = np.random.default_rng(0)
    labels = np.arange(300) % 3
    telling = np.stack([100 + 50 * labels, np.full(300, 80)], axis=1)
    found = measure_shortcut(telling, labels, [""] * 300)
    assert (found.accuracy, found.balanced, found.spread) == (1.0, 1.0, 0.0)
    assert found.majority == found.chance == pytest.approx(1 / 3)
    nothing = measure_shortcut(rng.uniform(size=(300, 2)), labels, [""] * 300)
    assert nothing.accuracy < 0.45


def test_a_shortcut_through_copies_is_no_shortcut():
    """Every image has four copies of its own size: only the groups keep that from counting."""
    rng = np.random.default_rng(0)
    sizes, labels = rng.uniform(size=(60, 2)).repeat(10, axis=0), (np.arange(60) % 2).repeat(10)
    groups = [f"g{n // 10}" for n in range(600)]
    assert measure_shortcut(sizes, labels, [""] * 600).accuracy > 0.9
    assert measure_shortcut(sizes, labels, groups).accuracy < 0.7


def test_a_shortcut_needs_classes_and_images():
    ones = np.ones((20, 2))
    assert measure_shortcut(ones, [0] * 20, [""] * 20) is None
    assert measure_shortcut(ones, [0] * 16 + [1] * 4, [""] * 20) is None
    assert measure_shortcut(ones, [0] * 10 + [1] * 10, ["g"] * 10 + [""] * 10) is None


def test_a_table_is_examined_like_a_folder(folders, tmp_path):
    first, second = folders
    shutil.copytree(second, tmp_path / "second")
    table = tmp_path / "second" / "labels.csv"
    table.write_text("image,label,patient\nnormal/elsewhere.jpg,Normal,7\n")
    document = audit.audit([str(first), str(table)], tmp_path / "out")
    assert document["folders"][1]["labels"] == {"benign": 0, "malignant": 0, "normal": 1}
    assert document["counts"]["across"] == 1
    assert "external/normal/elsewhere.jpg" in (tmp_path / "out" / "groups.csv").read_text()
