"""split.csv is reused exactly or refused by name."""

import dataclasses
import hashlib
from pathlib import Path

import pytest

from jaxbusi.data import busi, splits
from jaxbusi.data.protocols import Shares, draw_rows
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError


def make_rows(records, digests, part_of, copies):
    return [
        splits.SplitRow(
            record.name, digest, CLASSES[record.label], "", part_of[record.name], copies
        )
        for record, digest in zip(records, digests, strict=True)
    ]


class Bytes:
    def read_bytes(self) -> bytes:
        raise AssertionError("a split must not read images")


NAMES = (
    "benign/benign (1).png",
    'benign/a, "quoted" one.png',
    "malignant/ü.png",
    "normal/x.png",
    "external/benign/benign (1).png",
)
LABELS = (0, 0, 1, 2, 0)
DIGESTS = [hashlib.sha256(name.encode()).hexdigest() for name in NAMES]
PART_OF = dict(zip(NAMES, ("train", "test", "train", "validation", "external"), strict=True))


@pytest.fixture
def records() -> list[Record]:
    own = [Record(n, la, Bytes()) for n, la in zip(NAMES[:4], LABELS, strict=False)]
    return own + splits.external_records([Record("benign/benign (1).png", 0, Bytes())])


def test_what_is_written_is_read_in_the_order_of_the_records(records: list[Record], tmp_path: Path):
    rows = make_rows(records, DIGESTS, PART_OF, 5)
    rows[0] = dataclasses.replace(rows[0], group="g1", copies=1)
    path = tmp_path / "split.csv"
    splits.write_split(path, rows)
    assert path.read_text().splitlines()[:3] == [
        "image,sha256,label,group,part,copies",
        f"benign/benign (1).png,{DIGESTS[0]},benign,g1,train,1",
        f'"benign/a, ""quoted"" one.png",{DIGESTS[1]},benign,,test,5',
    ]
    assert splits.read_split(path, records, DIGESTS) == rows
    assert splits.read_split(path, records[::-1], DIGESTS[::-1]) == rows[::-1]
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes().replace(b"\n", b"\r\n"))
    assert splits.read_split(path, records, DIGESTS) == rows
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


@pytest.mark.parametrize(
    ("line", "old", "new", "message"),
    [
        (0, "group", "Group", r"the first line must be image,sha256,.* found 'image,sha"),
        (1, ",benign,", ",cyst,", r"line 2: label 'cyst' is none of benign, malignant, normal"),
        (1, ",train,", ",dev,", r"line 2: part 'dev' is none of train, validation, test, ext"),
        (1, ",train,", ",external,", r"line 2: part 'external' does not go with"),
        (5, ",external,", ",train,", r"line 6: part 'train' does not go with"),
        (3, ",5", ",0", r"line 4: copies '0' is not a whole number above 0"),
        (3, ",5", ",5.0", r"line 4: copies '5.0' is not"),
        (3, ",5", "", r"line 4: expected 6 fields, found 5"),
        (3, DIGESTS[2], "xyz", r"line 4: sha256 'xyz' is not 64"),
        (3, "malignant/ü.png", NAMES[0], r"line 4: 'benign/benign \(1\).png' is listed a second"),
        (3, DIGESTS[2], "0" * 64, r"'malignant/ü.png' is not the file that was listed"),
        (3, ",malignant,", ",normal,", r"'malignant/ü.png' is in the folder of another class"),
        (4, "normal/x.png", "normal/y.png", r"'normal/y.png' is listed but not in the folder"),
    ],
)
def test_a_changed_split_is_refused_by_name(
    records: list[Record], tmp_path: Path, line: int, old: str, new: str, message: str
):
    path = tmp_path / "split.csv"
    splits.write_split(path, make_rows(records, DIGESTS, PART_OF, 5))
    lines = path.read_text().splitlines(keepends=True)
    lines[line] = lines[line].replace(old, new, 1)
    path.write_text("".join(lines))
    with pytest.raises(UserError, match=message) as caught:
        splits.read_split(path, records, DIGESTS)
    assert str(caught.value).startswith(str(path))
    assert "\n" not in str(caught.value)


def test_missing_and_extra_images_are_refused_by_name(records: list[Record], tmp_path: Path):
    path = tmp_path / "split.csv"
    splits.write_split(path, make_rows(records, DIGESTS, PART_OF, 5))
    with pytest.raises(UserError, match=r"'benign/benign \(1\).png' \(and 1 more\) is listed but"):
        splits.read_split(path, records[2:], DIGESTS[2:])
    with pytest.raises(UserError, match=r"'external/benign.* or set config.data.external"):
        splits.read_split(path, records[:4], DIGESTS[:4])
    splits.write_split(path, make_rows(records[:3], DIGESTS[:3], PART_OF, 5))
    with pytest.raises(UserError, match=r"'external/ben.* \(and 1 more\) is in the folder but not"):
        splits.read_split(path, records, DIGESTS)
    with pytest.raises(UserError, match=r"gone.csv: no such file"):
        splits.read_split(tmp_path / "gone.csv", records, DIGESTS)
    for content in (b"", b"\xff\xfe\x00", b'image,"sha'):
        path.write_bytes(content)
        with pytest.raises(UserError, match=r"split.csv: (the first line|cannot be read as CSV)"):
            splits.read_split(path, records, DIGESTS)


def test_a_failed_write_leaves_the_old_file(records: list[Record], tmp_path: Path, monkeypatch):
    path = tmp_path / "split.csv"
    rows = make_rows(records, DIGESTS, PART_OF, 5)
    splits.write_split(path, rows)

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(splits.os, "fsync", full)
    with pytest.raises(UserError, match=r"split.csv: cannot be written .No space left"):
        splits.write_split(path, rows[:1])
    assert splits.read_split(path, records, DIGESTS) == rows
    assert [p.name for p in tmp_path.iterdir()] == ["split.csv"]


def test_counts_by_part_and_class(records: list[Record]):
    rows = make_rows(records, DIGESTS, PART_OF, 5)
    assert splits.part_counts(rows) == {
        "train": {"benign": (1, 5), "malignant": (1, 5), "normal": (0, 0)},
        "validation": {"benign": (0, 0), "malignant": (0, 0), "normal": (1, 5)},
        "test": {"benign": (1, 5), "malignant": (0, 0), "normal": (0, 0)},
        "external": {"benign": (1, 5), "malignant": (0, 0), "normal": (0, 0)},
    }


def test_table_3_of_real_busi(busi_root: Path):
    records = busi.read_records(busi_root)
    digests = [hashlib.sha256(record.image.read_bytes()).hexdigest() for record in records]
    alone = {record.name: "" for record in records}
    rows = draw_rows(records, digests, alone, protocol="paper", shares=Shares(), copies=5, seed=0)
    counts = splits.part_counts(rows)
    assert counts == {
        "train": {"benign": (350, 1750), "malignant": (168, 840), "normal": (106, 530)},
        "test": {"benign": (87, 435), "malignant": (42, 210), "normal": (27, 135)},
    }
    assert sum(copies for _, copies in counts["train"].values()) == 3120
    assert sum(copies for _, copies in counts["test"].values()) == 780
