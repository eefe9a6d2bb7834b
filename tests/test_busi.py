"""Layouts, broken folders, the array_record form; and the real BUSI where it is at hand."""

import concurrent.futures
import hashlib
import io
import logging
import os
import pickle
import re
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from jaxbusi.data import busi, images
from jaxbusi.data.prepared import prepare
from jaxbusi.data.records import CLASSES, Record
from jaxbusi.errors import UserError

KAGGLE = (
    "benign/benign (1).png",
    "benign/benign (1)_mask.png",
    "benign/benign (1)_mask_1.png",
    "benign/benign (10).png",
    "benign/benign (10)_mask.png",
    "benign/benign (2).png",
    "benign/benign (2)_mask.png",
    "malignant/malignant (1).png",
    "malignant/malignant (1)_mask.png",
    "normal/normal (1).png",
    "normal/normal (1)_mask.png",
)


def write(root: Path, names: Iterable[str]) -> Path:
    """Writes a small file of its own pixels at every name."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        seed = int.from_bytes(hashlib.sha256(name.encode()).digest()[:4])
        pixels = np.random.default_rng(seed).integers(0, 256, (4, 6), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return root


def found(records: list[Record], root: Path) -> dict[str, list[str]]:
    return {
        record.name: [mask.relative_to(root).as_posix() for mask in record.masks]
        for record in records
    }


def test_kaggle_layout_in_natural_order_with_masks(tmp_path: Path):
    records = busi.read_folder(write(tmp_path, KAGGLE))
    assert found(records, tmp_path) == {
        "benign/benign (1).png": ["benign/benign (1)_mask.png", "benign/benign (1)_mask_1.png"],
        "benign/benign (2).png": ["benign/benign (2)_mask.png"],
        "benign/benign (10).png": ["benign/benign (10)_mask.png"],
        "malignant/malignant (1).png": ["malignant/malignant (1)_mask.png"],
        "normal/normal (1).png": ["normal/normal (1)_mask.png"],
    }
    assert list(found(records, tmp_path)) == [record.name for record in records]
    assert [record.label for record in records] == [0, 0, 0, 1, 2]
    assert records[0].image.read_bytes() == (tmp_path / KAGGLE[0]).read_bytes()


@pytest.mark.parametrize(
    "pattern",
    [
        ("images/{c}/a.png", "mask/{c}/a.png"),
        ("image/{c}/a.jpg", "masks/{c}/a_mask.png"),
        ("{c}/images/a.tif", "{c}/masks/a.png"),
        ("{c}/image/p1/a.bmp", "{c}/mask/p1/a_mask_1.png"),
        ("{c}/p1/deep/A.PNG", "{c}/p1/deep/A_Mask.PNG"),
        ("Dataset_BUSI_with_GT/{c}/a.png", "Dataset_BUSI_with_GT/{c}/a_mask.png"),
    ],
)
def test_other_layouts(tmp_path: Path, pattern: tuple[str, str]):
    classes = ("Benign", "MALIGNANT", "normal")
    write(tmp_path, (file.format(c=c) for c in classes for file in pattern))
    records = busi.read_folder(tmp_path)
    base = tmp_path / "Dataset_BUSI_with_GT" if "Dataset" in pattern[0] else tmp_path
    prefix = "Dataset_BUSI_with_GT/"
    assert found(records, base) == {
        pattern[0].format(c=c).removeprefix(prefix): [pattern[1].format(c=c).removeprefix(prefix)]
        for c in classes
    }
    assert [record.label for record in records] == [0, 1, 2]


def test_same_stem_in_two_subfolders_keeps_its_own_mask(tmp_path: Path):
    write(tmp_path, KAGGLE)
    write(tmp_path, [f"benign/p{i}/{name}" for i in (1, 2) for name in ("x.png", "x_mask.png")])
    masks = found(busi.read_folder(tmp_path), tmp_path)
    assert masks["benign/p1/x.png"] == ["benign/p1/x_mask.png"]
    assert masks["benign/p2/x.png"] == ["benign/p2/x_mask.png"]


def test_side_files_are_passed_over_and_the_rest_is_said(tmp_path: Path, caplog):
    write(tmp_path, KAGGLE)
    write(tmp_path, ["benign/._benign (1).png", "__MACOSX/benign/x.png", "normal/@eaDir/t.png"])
    (tmp_path / "benign" / "Thumbs.db").write_bytes(b"x")
    (tmp_path / "readme.txt").write_text("x")
    write(tmp_path, ["suspicious/a.png", "malignant/gone_mask.png"])
    with caplog.at_level(logging.INFO):
        records = busi.read_folder(tmp_path)
    assert len(records) == 5
    said = [record.getMessage() for record in caplog.records if record.levelname == "WARNING"]
    assert said == [
        f"{tmp_path}: folders of no known class are ignored: 'suspicious'",
        f"{tmp_path}: masks without an image are ignored: 'malignant/gone_mask.png'",
    ]
    assert caplog.messages[-1] == (
        f"{tmp_path}: 5 images (3 benign, 1 malignant, 1 normal), 6 masks; "
        "not the published BUSI (437/210/133)"
    )


def test_an_external_set_may_lack_a_class(tmp_path: Path):
    write(tmp_path, [name for name in KAGGLE if not name.startswith("normal")])
    with pytest.raises(UserError, match="no folder of class normal"):
        busi.read_folder(tmp_path)
    records = busi.read_folder(tmp_path, require_all=False)
    assert {record.label for record in records} == {0, 1}


@pytest.mark.parametrize(
    ("names", "message"),
    [
        (
            ["benign/a.png", "malignent/a.png", "normal/a.png"],
            r"'malignent' meant to be 'malig",
        ),
        (["bening/a.png"], r"expected benign, malignant, normal, found folders 'bening' \(is 'ben"),
        (["a.png", "b.png"], r"found 2 files and no folders"),
        (["benign/a.png", "malignant/a_mask.png", "normal/a.png"], r"malignant has no images"),
        (
            ["train/benign/a.png", "test/benign/a.png"],
            r"several sets \('test', 'train'\)",
        ),
        (["masks/benign/a.png"], r"no folder of a class"),
        ([*KAGGLE, "benign/x.png", "benign/x.jpg", "benign/x_mask.png"], r"fits both x\.\w+ and"),
        ([*KAGGLE, "benign/a\nb.png"], r"'benign/a\\nb.png' cannot be written in a table"),
    ],
)
def test_a_wrong_folder_is_one_line(tmp_path: Path, names: list[str], message: str):
    write(tmp_path, names)
    with pytest.raises(UserError, match=message) as caught:
        busi.read_folder(tmp_path, key="config.data.external")
    assert str(caught.value).startswith("config.data.external: ")
    assert "\n" not in str(caught.value)


def test_no_folder_says_where_busi_is_and_how_to_run_the_demo(tmp_path: Path):
    help_text = re.escape(
        "BUSI is Dataset_BUSI_with_GT by Al-Dhabyani et al. 2020, e.g. on Kaggle; to try without "
        "it: python -m jaxbusi.main --config configs/demo.py --workdir runs/demo"
    )
    for root in (tmp_path / "absent", tmp_path):
        with pytest.raises(UserError, match=rf"^config.data.root: the folder .* {help_text}$"):
            busi.read_records(root)
    with pytest.raises(UserError, match=r"^config.data.root is empty; give"):
        busi.read_records("")
    archive = tmp_path / "archive.zip"
    archive.write_bytes(b"PK")
    with pytest.raises(UserError, match="is a file; unpack it"):
        busi.read_records(archive)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A small set, once as a folder and once as array_record."""
    root = write(tmp_path_factory.mktemp("set"), KAGGLE)
    (root / "normal" / "normal (1).png").write_bytes(b"\0ends in zeros\0\0")
    (root / "malignant" / "malignant (1)_mask.png").unlink()
    out = tmp_path_factory.mktemp("out")
    prepare(root, out)
    return root, out


def content(records: list[Record]) -> list[tuple[str, int, bytes, list[bytes]]]:
    return [
        (r.name, r.label, r.image.read_bytes(), [mask.read_bytes() for mask in r.masks])
        for r in records
    ]


def test_prepared_set_holds_the_same_records_and_bytes(prepared: tuple[Path, Path]):
    root, out = prepared
    expected = content(busi.read_folder(root))
    assert expected[3][3] == []
    assert content(busi.read_records(out)) == expected
    assert content(busi.read_records(out / "busi" / "1.0.0")) == expected
    assert "tensorflow" not in sys.modules


def test_prepared_records_in_threads_and_after_pickling(prepared: tuple[Path, Path]):
    records = busi.read_records(prepared[1]) * 40
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        read = list(pool.map(lambda record: record.image.read_bytes(), records))
    assert read == [record.image.read_bytes() for record in records]
    pickled = pickle.dumps(records[:5])
    assert len(pickled) < 2000
    assert content(pickle.loads(pickled)) == content(records[:5])


def test_prepare_keeps_what_is_there_and_refuses_another_set(
    prepared: tuple[Path, Path], tmp_path: Path
):
    root, out = prepared
    shard = next(out.rglob("*array_record-*"))
    before = shard.stat().st_mtime_ns
    prepare(root, out)
    assert shard.stat().st_mtime_ns == before
    with pytest.raises(UserError, match="holds another set than"):
        prepare(write(tmp_path, KAGGLE), out)


def test_damaged_or_foreign_prepared_folder(prepared: tuple[Path, Path], tmp_path: Path):
    for file in prepared[1].rglob("1.0.0/*"):
        (tmp_path / file.name).write_bytes(file.read_bytes())
    assert len(busi.read_records(tmp_path)) == 5
    shard = next(tmp_path.glob("*array_record-*"))
    whole = shard.read_bytes()
    labels = (tmp_path / "label.labels.txt").read_text()
    for damage in ("cut", "gone", "classes"):
        if damage == "cut":
            shard.write_bytes(whole[: len(whole) // 2])
        elif damage == "gone":
            shard.unlink()
        else:
            shard.write_bytes(whole)
            (tmp_path / "label.labels.txt").write_text(labels.replace("benign", "cat"))
        with pytest.raises(
            UserError, match=r"is no intact prepared set .* write it again"
        ) as caught:
            busi.read_records(tmp_path)
        assert "\n" not in str(caught.value)


def test_a_prepared_set_imports_nothing_and_leads_nowhere(
    prepared: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """TensorFlow Datasets imports the modules that features.json names."""
    folder = tmp_path / "set"
    folder.mkdir()
    for file in prepared[1].rglob("1.0.0/*"):
        (folder / file.name).write_bytes(file.read_bytes())
    features, info = folder / "features.json", folder / "dataset_info.json"
    whole = features.read_text(), info.read_text()
    (tmp_path / "evil.py").write_text("raise SystemExit('executed')")
    monkeypatch.syspath_prepend(tmp_path)
    ours = "tensorflow_datasets.core.features.text_feature.Text"
    assert ours in whole[0]
    features.write_text(whole[0].replace(ours, "evil.Text"))
    with pytest.raises(UserError, match=r"features.json is not that of this program"):
        busi.read_records(folder)
    assert "evil" not in sys.modules
    features.write_text(whole[0])
    shard = next(folder.glob("*array_record-*"))
    shard.rename(tmp_path / shard.name)
    info.write_text(whole[1].replace("{DATASET}-", "../{DATASET}-"))
    with pytest.raises(UserError, match=r"leads out of it"):
        busi.read_records(folder)
    info.write_text(whole[1])
    shard.symlink_to(f"../{shard.name}")
    with pytest.raises(UserError, match=r"leads out of it"):
        busi.read_records(folder)
    shard.unlink()
    (tmp_path / shard.name).rename(shard)
    assert len(busi.read_records(folder)) == 5


def test_a_root_that_no_file_system_takes_is_one_line():
    for root, message in (("a" * 300, "File name too long"), ("a\0b", "does not exist")):
        with pytest.raises(UserError, match=message) as caught:
            busi.read_records(root)
        assert str(caught.value).isprintable()


def test_command_prepares_and_refuses(tmp_path: Path):
    root = write(tmp_path / "set", KAGGLE)
    project = Path(__file__).parents[1]

    def call(folder: Path) -> subprocess.CompletedProcess:
        arguments = ["--root", str(folder), "--out", str(tmp_path / "out")]
        return subprocess.run(
            [sys.executable, "scripts/prepare_tfds.py", *arguments],
            capture_output=True,
            text=True,
            check=False,
            cwd=project,
            env={**os.environ, "PYTHONPATH": str(project)},
        )

    done = call(root)
    assert (done.returncode, done.stdout.splitlines()[-1]) == (
        0,
        f"ready: --config.data.root={tmp_path / 'out' / 'busi' / '1.0.0'}",
    )
    refused = call(tmp_path / "absent")
    assert refused.returncode == 2
    assert refused.stderr.strip().splitlines() == [refused.stderr.strip()]
    assert "does not exist" in refused.stderr


def test_real_busi_counts_masks_and_colour(busi_root: Path, caplog):
    with caplog.at_level(logging.INFO):
        records = busi.read_records(busi_root)
    assert caplog.messages[-1].endswith(
        "780 images (437 benign, 210 malignant, 133 normal), 798 masks; "
        "as the published BUSI (437/210/133)"
    )
    masks = [len(record.masks) for record in records]
    assert (min(masks), masks.count(2), masks.count(3)) == (1, 16, 1)
    assert records[436].name == "benign/benign (437).png"
    coloured = 0
    for record in records:
        image = images.decode_image(record.image.read_bytes(), record.name)
        coloured += bool((image != image[:, :, :1]).any())
        if len(record.masks) == 3:
            lesions = [mask.read_bytes() for mask in record.masks]
            assert 0 < images.lesion_mask(lesions, record.name, image.shape[:2]).mean() < 0.5
    assert coloured == 16
    normal = [images.decode_mask(r.masks[0].read_bytes(), r.name) for r in records[-133:]]
    assert not any(mask.any() for mask in normal)


def test_real_busi_survives_array_record(busi_root: Path, tmp_path: Path):
    prepared = busi.read_records(prepare(busi_root, tmp_path))
    assert content(prepared) == content(busi.read_folder(busi_root))
    assert CLASSES[prepared[-1].label] == "normal"
    assert Image.open(io.BytesIO(prepared[0].image.read_bytes())).format == "PNG"
