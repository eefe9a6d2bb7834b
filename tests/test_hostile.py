"""Damaged and hostile input: refused in one line, in little time and memory, and shown as text.

`scripts/fuzz.py` does the first part at length; regressions of single readers stand with them.
"""

import csv
import dataclasses
import gc
import io
import json
import os
import pickle
import re
import struct
import time
import zipfile
import zlib
from importlib import resources

import numpy as np
import pytest
from PIL import Image

from jaxbusi import audit, train
from jaxbusi.campaign import run_study
from jaxbusi.data import busi, csv_files, images, splits
from jaxbusi.data.images import ImageError, decode_image, decode_mask, read_file
from jaxbusi.data.records import CLASSES
from jaxbusi.data.tables import read_table
from jaxbusi.errors import UserError, fail
from jaxbusi.evaluation import study_figures
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.weights import files
from jaxbusi.weights.files import read_tensors
from scripts import fuzz_weights
from scripts.fuzz import main as fuzz
from scripts.fuzz_readers import READERS
from scripts.fuzz_seeds import run_length_bmp
from scripts.fuzz_watch import Judge
from tests.runs import make_config
from tests.test_report import Page
from tests.tiny import TinyModel

INPUTS = {"png": 60, "tiff": 60, "jpeg": 40, "bmp": 40, "prepared": 8}
"""Of each reader; the others get 25."""


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # of orbax's reads
@pytest.mark.parametrize("name", READERS)
def test_damaged_inputs_are_read_or_refused_in_one_line(name, tmp_path):
    judge = Judge(name, tmp_path)
    outcomes = [judge.read(judge.data(0, number), number) for number in range(INPUTS.get(name, 25))]
    assert [o for o in outcomes if o.is_finding] == []
    assert any(o.verdict == "refused" for o in outcomes) or name in ("beside", "features")
    gc.collect()  # what orbax's failed reads leave behind is passed over here, not in another test


def test_what_the_script_finds_is_kept_and_can_be_replayed(tmp_path, monkeypatch, capsys):
    """A reader that ends badly on every second input, in the process of the test."""
    from scripts import fuzz as script

    def watch(name, seed, numbers):
        judge = Judge(name, tmp_path)
        return [judge.read(judge.data(seed, number), number) for number in numbers]

    def read(data, folder):
        if len(data) % 2:
            raise KeyError("odd")

    monkeypatch.setattr(script, "watch", watch)
    broken = dataclasses.replace(READERS["history"], read=read)
    monkeypatch.setitem(READERS, "history", broken)
    arguments = ["--count=20", "--readers", "history", "--workers=1", f"--out={tmp_path / 'kept'}"]
    assert fuzz(arguments) == 1
    assert "KeyError" in capsys.readouterr().out
    kept = sorted((tmp_path / "kept").glob("*.bin"))
    assert kept
    assert all(len(path.read_bytes()) % 2 for path in kept)
    assert json.loads(kept[0].with_suffix(".json").read_text())["reader"] == "history"
    monkeypatch.setattr(Judge, "limit_memory", lambda self: None)
    assert fuzz([f"--replay={kept[0]}"]) == 1


@pytest.mark.parametrize(
    ("quoted", "shown"),
    [
        ("a\nb\r\x1b[31m\x85\u2028\udcff", r"a\nb\r\x1b[31m\x85\u2028\udcff"),
        ("乳腺 \N{LATIN SMALL LETTER E WITH ACUTE} 'x'  y", "乳腺 é 'x'  y"),
        ("x" * 30_000, f"{'x' * 9_000} … {'x' * 900}"),
    ],
)
def test_what_a_message_quotes_stays_in_its_line(quoted, shown, capsys):
    assert str(UserError(quoted)) == shown
    error = pickle.loads(pickle.dumps(ImageError("n", quoted)))  # as out of a worker process
    assert (error.name, error.reason) == ("n", shown)
    with pytest.raises(SystemExit):
        fail(quoted)
    assert capsys.readouterr().err.removesuffix("\n").isprintable()


# --- small files that want much memory or time ---------------------------------------------------


def encode(image, kind, **options):
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def png(width, height):
    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg(width, height):
    data = encode(Image.new("L", (8, 8)), "JPEG")
    place = data.index(b"\xff\xc0") + 5
    return data[:place] + struct.pack(">HH", height, width) + data[place + 4 :]


def bmp(width, height):
    data = encode(Image.new("L", (8, 8)), "BMP")
    return data[:18] + struct.pack("<ii", width, height) + data[26:]


def tiff(width, height, **tile):
    """With tags of one whole number only; `tile` is the side of its tiles."""
    tags = {256: width, 257: height, 258: 8, 259: 5, 262: 1, 277: 1}
    if tile:
        tags |= {322: tile["tile"], 323: tile["tile"], 324: 8, 325: 64}
    else:
        tags |= {273: 8, 278: height, 279: 64}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, n) for tag, n in sorted(tags.items()))
    return struct.pack("<2sHIH", b"II", 42, 8, len(tags)) + entries + bytes(68)


@pytest.mark.parametrize("decode", [decode_image, decode_mask])
@pytest.mark.parametrize("make", [png, jpeg, bmp, tiff])
def test_a_file_that_claims_gigabytes_of_pixels_is_refused_by_the_limit(make, decode):
    data = make(60_000, 60_000)
    assert len(data) < 2_000
    with pytest.raises(ImageError, match=r"^x: has more than the 64,000,000 pixels"):
        decode(data, "x")
    with pytest.raises(ImageError, match=r"^x: .*(damaged|truncated)"):  # the limit, not the file
        decode(make(600, 60) if make in (png, tiff) else make(600, 60)[:200], "x")


def test_a_tile_larger_than_the_image_is_refused_by_the_limit():
    with pytest.raises(ImageError, match=r"tiles of more than 16,000,000 pixels; save it as PNG"):
        decode_image(tiff(10, 10, tile=46_336), "x")
    tiled = encode(Image.new("L", (40, 20), 7), "TIFF", tiffinfo={322: 16, 323: 16})
    assert decode_image(tiled, "x").max() == 7


def test_run_lengths_are_read_where_they_are_few():
    """One pixel, then the end of its line, which Pillow fills pixel by pixel."""
    with pytest.raises(ImageError, match=r"run lengths with more than 4,000,000 pixels"):
        decode_image(run_length_bmp(64_000_000, 1, b"\1\7\0\0"), "x")
    assert decode_image(run_length_bmp(3, 1, b"\1\7\2\x09\0\0"), "x")[0, :, 0].tolist() == [7, 9, 9]


def test_scans_that_repeat_are_refused_by_the_limit():
    data = encode(Image.new("L", (4_000, 4_000)), "JPEG", progressive=True)
    scan = data[data.rindex(b"\xff\xda") : -2]
    assert decode_image(data, "x").shape == (4_000, 4_000, 3)
    with pytest.raises(
        ImageError, match=r"JPEG of 506 scans, at its size at most 160 are accepted"
    ):
        decode_image(data[:-2] + 500 * scan + data[-2:], "x")
    small = encode(Image.new("L", (40, 40), 9), "JPEG", progressive=True)
    scan = small[small.rindex(b"\xff\xda") : -2]
    assert decode_image(small[:-2] + 50 * scan + small[-2:], "x").max() == 9


def test_pipes_and_giants_are_not_read(tmp_path, monkeypatch):
    os.mkfifo(tmp_path / "pipe.png")
    with pytest.raises(ImageError, match=r"^x: is no regular file"):
        read_file(tmp_path / "pipe.png", "x")
    with (tmp_path / "giant.png").open("wb") as file:
        file.truncate(images.MAX_BYTES + 1)  # takes no space on the disk
    with pytest.raises(ImageError, match=r"^x: is larger than the 256 MiB that are accepted"):
        read_file(tmp_path / "giant.png", "x")
    os.mkfifo(tmp_path / "pipe.csv")
    with pytest.raises(UserError, match=r"pipe.csv cannot be read as CSV \(no regular file\)"):
        read_table(tmp_path / "pipe.csv")
    (tmp_path / "labels.csv").write_text("image,label\n" + "a.png,benign\n" * 9)
    monkeypatch.setattr(csv_files, "MAX_LINES", 5)
    with pytest.raises(UserError, match=r"CSV \(more than the 5 lines that are accepted\)"):
        read_table(tmp_path / "labels.csv")
    monkeypatch.setattr(csv_files, "MAX_BYTES", 2**20)
    with (tmp_path / "labels.csv").open("ab") as file:
        file.truncate(2**20 + 1)
    with pytest.raises(UserError, match=r"CSV \(more than the 1 MiB that are accepted\)"):
        read_table(tmp_path / "labels.csv")
    os.mkfifo(tmp_path / "pipe.pth")
    with pytest.raises(UserError, match=r"pipe.pth is no regular file"):
        read_tensors(tmp_path / "pipe.pth")
    with (tmp_path / "giant.pth").open("wb") as file:
        file.truncate(files.MAX_FILE_BYTES + 1)
    with pytest.raises(UserError, match=r"giant.pth is larger than the 2 GiB accepted"):
        read_tensors(tmp_path / "giant.pth")


def npy(shape, numbers):
    stream = io.BytesIO()
    header = {"descr": "<f4", "fortran_order": False, "shape": shape}
    np.lib.format.write_array_header_1_0(stream, header)
    return stream.getvalue() + bytes(4 * numbers)


def test_arrays_that_are_larger_than_their_file_are_refused(tmp_path, monkeypatch):
    path = tmp_path / "weights.npz"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy((2**38,), 4))
    with pytest.raises(UserError, match=r"damaged or truncated \(ValueError: a\.npy holds float32"):
        read_tensors(path)
    monkeypatch.setattr(files, "MAX_TENSOR_BYTES", 2**20)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy((2**18,), 2**18))
    assert path.stat().st_size < 5_000
    with pytest.raises(
        UserError, match=r"its tensors take 1 MiB as float32 or wider; 1 are accepted"
    ):
        read_tensors(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.npy", npy((6 * 2**20,), 6 * 2**20))
    with pytest.raises(UserError, match=r"its 24 MiB are compressed to less than a 20th"):
        read_tensors(path)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("opt/0.npy", npy((2**18,), 2**18))  # is not weights, and not read
        archive.writestr("a.npy", npy((2, 3), 6))
    assert {name: a.shape for name, a in read_tensors(path).arrays.items()} == {"a": (2, 3)}


@pytest.mark.parametrize("container", [fuzz_weights.zipped, fuzz_weights.legacy])
def test_a_tensor_that_repeats_one_number_counts_whole(container, tmp_path):
    path = tmp_path / "weights.pth"
    one = {"a": np.zeros(1, np.float32)}
    expanded = {"a": np.broadcast_to(one["a"], (2**15, 2**15))}
    path.write_bytes(container(fuzz_weights.torch_pickle(expanded), one))
    with pytest.raises(UserError, match=r"take 4,096 MiB as float32 or wider; 768 are accepted"):
        read_tensors(path)
    expanded = {"a": np.broadcast_to(one["a"], (2, 3))}
    path.write_bytes(container(fuzz_weights.torch_pickle(expanded), one))
    np.testing.assert_array_equal(read_tensors(path).arrays["a"], np.zeros((2, 3)))


def test_compressed_parts_and_lists_of_parts_are_refused(tmp_path, monkeypatch):
    state = {"a": np.zeros(4, np.float32)}
    stored = fuzz_weights.zipped(fuzz_weights.torch_pickle(state), state)
    path = tmp_path / "weights.pth"
    with zipfile.ZipFile(io.BytesIO(stored)) as old, zipfile.ZipFile(path, "w", 8) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    with pytest.raises(UserError, match=r"its parts are compressed, as torch.save leaves none"):
        read_tensors(path)
    path.write_bytes(stored)
    read_tensors(path)
    monkeypatch.setattr(files, "MAX_CONTENTS_BYTES", 100)
    with pytest.raises(UserError, match=r"its list of parts has more than"):
        read_tensors(path)


LAUGHS = b"]" + b"".join(b"q%c0]" % n + b"(" + b"h%c" % n * 10 + b"e" for n in range(60)) + b"."
SELF = b"}q\0X\5\0\0\0modelh\0s."
ENDLESS_KEY = b"})q\0" + b"h\0h\0\x86q\0" * 60 + b"K\1s."
MEMO = b"Nr\xff\xff\xff\x3f."
POISON = b"\x80\2(ctorch\nFloatStorage\n}X\5\0\0\0dtypeNsbl."
SET = b"\x80\4\x8f(K\1\x90."


@pytest.mark.parametrize("payload", [LAUGHS, SELF, ENDLESS_KEY, MEMO, POISON, SET])
@pytest.mark.parametrize("container", [fuzz_weights.zipped, fuzz_weights.legacy])
def test_pickles_that_grow_are_refused_at_once(payload, container, tmp_path):
    """Lists in lists in lists, a dictionary in itself, a key that is hashed for ever, and such."""
    path = tmp_path / "weights.pth"
    path.write_bytes(container(payload, {}))
    begun = time.process_time()
    with pytest.raises(UserError) as caught:
        read_tensors(path)
    assert "\n" not in str(caught.value)
    assert time.process_time() - begun < 1
    # What a file builds touches no other file.
    state = {"a": np.arange(4, dtype=np.float32)}
    path.write_bytes(container(fuzz_weights.torch_pickle(state), state))
    np.testing.assert_array_equal(read_tensors(path).arrays["a"], state["a"])


def test_a_program_of_megabytes_is_refused(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(fuzz_weights.zipped(pickle.dumps({"a": "x" * (3 << 20)}, 2), {}))
    with pytest.raises(UserError, match=r"holds more than the 2 MiB that are accepted"):
        read_tensors(path)


# --- what a set of images may reach --------------------------------------------------------------


@pytest.fixture
def folder(tmp_path):
    """A set of six images, and beside it a private picture."""
    for number, name in enumerate(("benign", "malignant", "normal") * 2):
        path = tmp_path / "set" / name / f"{number}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(np.full((4, 6), 40 * number, np.uint8)).save(path)
    (tmp_path / "private.png").write_bytes((tmp_path / "set/benign/0.png").read_bytes())
    return tmp_path / "set"


@pytest.mark.parametrize("target", ["../../private.png", "absolute", "../../gone.png"])
@pytest.mark.parametrize("name", ["x.png", "0_mask.png", "deep/x.png"])
def test_a_link_out_of_a_folder_is_refused_by_name(folder, target, name):
    link = folder / "benign" / name
    link.parent.mkdir(exist_ok=True)
    link.symlink_to(folder.parent / "private.png" if target == "absolute" else target)
    if name == "deep/x.png" and target != "absolute":
        link.unlink()
        link.symlink_to(f"../{target}")
    with pytest.raises(UserError, match=rf"{name} is a link that leads out of the set, to /") as e:
        busi.read_records(folder)
    assert str(e.value).startswith(f"config.data.root: {link}")
    assert "\n" not in str(e.value)


def test_links_inside_a_set_and_of_whole_class_folders_are_followed(folder, caplog):
    (folder / "benign" / "same.png").symlink_to("3.png")
    (folder / "benign" / "elsewhere.png").symlink_to("../normal/2.png")
    (folder / "benign" / "loop").symlink_to("..")
    (folder / "benign" / "round.png").symlink_to("round.png")
    (folder.parent / "far").mkdir()
    (folder / "malignant").rename(folder.parent / "far" / "malignant")
    (folder / "malignant").symlink_to(folder.parent / "far" / "malignant")
    (folder.parent / "far" / "malignant" / "in.png").symlink_to("1.png")
    (folder.parent / "link").symlink_to(folder)
    names = [record.name for record in busi.read_records(folder)]
    assert [record.name for record in busi.read_records(folder.parent / "link")] == names
    assert names == [
        *(f"benign/{name}.png" for name in ("0", "3", "elsewhere", "round", "same")),
        *("malignant/1.png", "malignant/4.png", "malignant/in.png"),
        *("normal/2.png", "normal/5.png"),
    ]
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    target = folder.parent / "far" / "malignant"
    assert f"{folder / 'malignant'} is a link out of {folder}, to {target}" in said
    assert f"'{folder / 'benign' / 'loop'}' is a link to a folder and not followed" in said
    (folder / "malignant" / "out.png").symlink_to(folder.parent / "private.png")
    with pytest.raises(UserError, match=r"out.png is a link that leads out of the set"):
        busi.read_records(folder)


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../private.png", "leads out of the folder"),
        ("benign/../../private.png", "leads out of the folder"),
        ("/etc/passwd", "is an absolute path"),
        ("out.png", "leads out of the folder"),
        ("benign/out.png", "leads out of the folder"),
        ("a" * 300 + ".png", "cannot be looked at"),
        ("benign/\u2028.png", "cannot be written in a table"),
        ("benign/\x9b31m.png", "cannot be written in a table"),
    ],
)
def test_a_table_reaches_nothing_outside_its_folder(folder, name, says):
    (folder / "out.png").symlink_to("../private.png")
    (folder / "benign" / "out.png").symlink_to("../out.png")  # a link to a link
    path = folder / "labels.csv"
    path.write_text(f"image,label\n{name},benign\n", encoding="utf-8")
    with pytest.raises(UserError, match=rf"labels.csv, line 2: .*{says}") as caught:
        read_table(path, require_all=False)
    assert str(caught.value).isprintable()


# --- names in pages ------------------------------------------------------------------------------

NAMES = (
    "<img src=x onerror=alert(1)>{}.png",
    "\"><svg onload='alert(1)'>{}.png",
    "' onmouseover='alert(1)' x='{}.png",
    "x</script><script>alert(1)<{}.png",  # the slash makes a folder of what stands before it
    "javascript:alert(1)<!--{}.png",
    "{{{{ 7 * 7 }}}}&lt;b&gt;$\\frac${}.png",
)
EVIL = "<u onclick=alert(1)>\"'&"


@pytest.fixture(scope="module")
def evil(tmp_path_factory):
    """A study of one run, and one that fails, on a table of hostile names; and an audit of it."""
    base = tmp_path_factory.mktemp("evil")
    table = base / EVIL / f"{EVIL}.csv"
    rows = []
    for number in range(36):
        name = f"{CLASSES[number % 3]}/{NAMES[number % len(NAMES)].format(number)}"
        path = table.parent / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if number < 33:
            rng = np.random.default_rng(number % 18)  # some are copies, for the audit to show
            pixels = rng.integers(0, 256, (32, 32), dtype=np.uint8)
            Image.fromarray(pixels).resize((96, 96)).save(path)
        else:
            path.write_bytes(b"<b>torn</b>")
        rows.append((name, CLASSES[number % 3], f"{EVIL}{number % 3}{number // 6}"))
    with table.open("w", newline="") as file:
        csv.writer(file).writerows([("image", "label", "patient"), *rows])
    config = make_config(table, num_epochs=1.0)
    config.data.on_bad_image = "skip"
    config.data.protocol = "clean"
    changes = {"good": {}, "bad": {"data": {"split": f"{EVIL} `code` [a](javascript:x) | <b>.csv"}}}
    with config.unlocked():
        config.study = {"seeds": (0,), "folds": 0, "changes": changes, "published": {}}
        config.study.arms = ("bad", "good")
    workdir = base / f"run {EVIL}"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(train, "build_model", lambda *_: TinyModel())
        patch.setattr(study_figures, "write_all", lambda *_: [])  # they name arms only
        run_study(config, workdir)
    audit.audit([str(table)], base / "audit")
    return workdir, base / "audit", rows


def words_of(name):
    """The text of a page has single spaces."""
    return " ".join(name.split())


@pytest.mark.parametrize("page", ["report", "study", "audit"])
def test_names_add_no_element_and_no_attribute_to_a_page(page, evil):
    workdir, audited, rows = evil
    path = {"report": workdir / "good/seed0/report.html", "study": workdir / "study.html"}
    text = path.get(page, audited / "audit.html").read_text()
    parsed = Page(text)
    sources = "".join(
        file.read_text() for file in resources.files("jaxbusi.evaluation").iterdir()
        if file.name.endswith(".html")
    )  # fmt: skip
    known = set(re.findall(r"<([a-z][a-z0-9]*)", sources))
    assert {tag for tag, _ in parsed.tags} <= known - {"script", "svg", "u"}
    names = {name for _, attributes in parsed.tags for name in attributes}
    assert names <= set(re.findall(r' ([a-z-]+)="', sources))
    assert not any(name.startswith("on") for name in names)
    assert all(image["src"].startswith("data:image/") for image in parsed.all("img"))
    assert all(link["href"].startswith("#") for link in parsed.all("a"))
    # What was meant to be code is there to be read.
    assert EVIL in parsed.text
    if page != "study":
        shown = [name for name, *_ in rows if words_of(name) in parsed.text]
        assert len(shown) >= 3
        assert any("onerror" in name for name in shown)


def test_the_tables_in_markdown_hold_no_html(evil):
    text = (evil[0] / "study.md").read_text()
    [line] = [line for line in text.splitlines() if "failed:" in line]
    assert line.startswith("* bad/seed0 failed: ")
    assert not re.search(r"(?<!\\)[<>`|\[\]&]", line)
    assert r"\<u onclick=alert(1)\>" in line


def test_what_is_written_of_hostile_names_is_read_again(evil):
    workdir, audited, rows = evil
    run = workdir / "good" / "seed0"
    names = {name for name, *_ in rows}
    assert {row.image for row in splits.read_rows(run / "split.csv")} <= names
    assert set(Predictions.read_csv(run / "predictions_test.csv").image) <= names
    assert json.loads((audited / "audit.json").read_text())["unreadable"]
    assert EVIL not in (run / "split.csv").read_text()  # no patient is named in results
