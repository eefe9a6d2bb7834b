"""Small valid files of every kind that is read, for `scripts/fuzz.py` to damage."""

import csv
import hashlib
import io
import json
import struct
import zlib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from PIL import Image

from jaxbusi.data.records import CLASSES
from scripts import fuzz_dicom

ROOT = Path(__file__).parents[1]


def _encode(image: Image.Image, kind: str, **options: Any) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def _gray() -> Image.Image:
    rows, columns = np.mgrid[:24, :32]
    noise = np.random.default_rng(0).integers(0, 40, rows.shape)
    return Image.fromarray((rows * 4 + columns * 3 + noise).astype(np.uint8))


def _colour() -> Image.Image:
    return Image.merge("RGB", [_gray(), _gray().rotate(180), _gray().transpose(Image.Transpose(0))])


def _deep() -> Image.Image:
    return Image.fromarray(np.asarray(_gray()).astype(np.uint16) * 16)


def _exif(orientation: int = 6) -> Image.Exif:
    exif = Image.Exif()
    exif[0x0112] = orientation
    exif[0x010E] = "a description"
    return exif


def png() -> list[bytes]:
    """Gray, colour, palette, 1 bit, 16 bits, transparent in three ways, interlaced, with EXIF."""
    gray, colour = _gray(), _colour()
    alpha = colour.copy()
    alpha.putalpha(gray)
    _, interlaced = cv2.imencode(
        ".png", np.asarray(gray), [cv2.IMWRITE_PNG_STRATEGY, cv2.IMWRITE_PNG_STRATEGY_RLE]
    )
    return [
        *(_encode(image, "PNG") for image in (gray, colour, alpha, _deep(), gray.convert("1"))),
        _encode(colour.quantize(16), "PNG", transparency=b"\x00\xff\x80"),
        _encode(gray.convert("LA"), "PNG"),
        _encode(gray, "PNG", transparency=9, dpi=(72, 72)),
        _encode(colour, "PNG", exif=_exif(), icc_profile=b"no profile" * 20),
        _encode(gray, "PNG", save_all=True, append_images=[gray.rotate(90)]),
        interlaced.tobytes(),
        _interlaced_png(),
    ]


def _interlaced_png() -> bytes:
    """Adam7, which neither Pillow nor OpenCV writes: gray, 9 by 7, one value."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(
            ">I", zlib.crc32(kind + content)
        )  # fmt: skip

    passes = ((0, 8, 0, 8), (4, 8, 0, 8), (0, 4, 4, 8), (2, 4, 0, 4), (0, 2, 2, 4), (1, 2, 0, 2),
              (0, 1, 1, 2))  # fmt: skip
    rows = b"".join(
        b"\0" + b"\x55" * len(range(x, 9, dx))
        for x, dx, y, dy in passes
        for _ in range(y, 7, dy)
        if x < 9
    )
    head = struct.pack(">IIBBBBB", 9, 7, 8, 0, 0, 0, 1)
    body = chunk(b"IHDR", head) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def jpeg() -> list[bytes]:
    """Gray, colour, CMYK, progressive, with EXIF and with restart markers."""
    gray, colour = _gray(), _colour()
    return [
        _encode(gray, "JPEG"),
        _encode(colour, "JPEG", quality=70, subsampling=2),
        _encode(colour.convert("CMYK"), "JPEG"),
        _encode(colour, "JPEG", progressive=True),
        _encode(gray, "JPEG", progressive=True, exif=_exif(8)),
        _encode(colour, "JPEG", restart_marker_blocks=2, comment=b"hello"),
        _encode(colour, "JPEG", optimize=True, icc_profile=b"no profile" * 20),
    ]


def bmp() -> list[bytes]:
    """Gray, colour, palette, 1 bit, with alpha, and run lengths of 8 bits."""
    gray, colour = _gray(), _colour()
    alpha = colour.copy()
    alpha.putalpha(gray)
    return [
        *(_encode(image, "BMP") for image in (gray, colour, gray.convert("1"), alpha)),
        _encode(colour.quantize(16), "BMP"),
        run_length_bmp(32, 24, b"\x20\x40\x00\x00" * 24 + b"\x00\x01"),
        run_length_bmp(8, 3, b"\x04\x10\0\x04\1\2\3\4\0\0\0\2\1\2" + b"\x08\x07\0\0" * 6),
    ]  # fmt: skip


def run_length_bmp(width: int, height: int, runs: bytes) -> bytes:
    """A BMP of 8 bits whose pixels are given as run lengths (BI_RLE8)."""
    palette = b"".join(bytes((i, i, i, 0)) for i in range(256))
    offset = 14 + 40 + len(palette)
    info = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(runs), 2835, 2835, 256, 0)
    head = struct.pack("<2sIHHI", b"BM", offset + len(runs), 0, 0, offset)
    return head + info + palette + runs


def tiff() -> list[bytes]:
    """Every compression that Pillow writes, deep and float pixels, several pages, tiles."""
    gray, colour = _gray(), _colour()
    bits = gray.convert("1")
    kinds = (
        "raw",
        "tiff_lzw",
        "tiff_deflate",
        "tiff_adobe_deflate",
        "packbits",
        "jpeg",
        "lzma",
        "zstd",
    )
    encoded = [_encode(colour, "TIFF", compression=kind) for kind in kinds]
    encoded += [
        _encode(bits, "TIFF", compression=kind) for kind in ("group3", "group4", "tiff_ccitt")
    ]
    encoded += [
        _encode(gray, "TIFF", exif=_exif()),
        _encode(_deep(), "TIFF", compression="tiff_lzw"),
        _encode(Image.fromarray(np.asarray(gray).astype(np.int32)), "TIFF"),
        _encode(Image.fromarray(np.asarray(gray).astype(np.float32)), "TIFF"),
        _encode(colour.convert("CMYK"), "TIFF"),
        _encode(colour.convert("LAB"), "TIFF"),
        _encode(colour.quantize(16), "TIFF"),
        _encode(colour.convert("RGBA"), "TIFF", compression="tiff_deflate", tiffinfo={317: 2}),
        _encode(gray, "TIFF", save_all=True, append_images=[gray, gray], compression="tiff_lzw"),
        _encode(gray, "TIFF", big_tiff=True),
    ]  # fmt: skip
    return encoded


def dicom() -> list[bytes]:
    """Every transfer syntax and meaning of pixels that is read."""
    return fuzz_dicom.seeds(_gray(), _colour())


def masks() -> list[bytes]:
    """Masks of several modes."""
    inside = np.zeros((24, 32), np.uint8)
    inside[5:12, 8:20] = 255
    mask = Image.fromarray(inside)
    return [
        _encode(mask, "PNG"),
        _encode(mask.convert("1"), "PNG"),
        _encode(mask.convert("RGB"), "PNG"),
        _encode(mask, "JPEG"),
        _encode(mask.convert("1"), "BMP"),
        _encode(mask, "TIFF", compression="tiff_lzw"),
        _encode(Image.fromarray(inside.astype(np.uint16) * 200), "PNG"),
    ]


# --- tables and texts ---------------------------------------------------------------------------

NAMES = tuple(f"{name}/{name} ({number}).png" for name in CLASSES for number in (1, 2))
"""Images of the small set that tables speak of."""


def write_set(folder: Path) -> None:
    """Writes the images that `NAMES` has, each of its own pixels, below a folder."""
    for number, name in enumerate(NAMES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        _gray().rotate(9 * number).save(folder / name)


def digests() -> list[str]:
    """What split.csv calls the files of `NAMES`: any 64 digits do."""
    return [hashlib.sha256(name.encode()).hexdigest() for name in NAMES]


def _table(*rows: Sequence[object]) -> bytes:
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerows(rows)
    return text.getvalue().encode()


def tables() -> list[bytes]:
    """Labels of images, with and without patients, with a byte order mark, with quotes."""
    rows = [(name, name.split("/")[0]) for name in NAMES]
    patients = [
        ("image", "label", "patient"),
        *((*row, f"p{i // 2}") for i, row in enumerate(rows)),
    ]
    quoted = "\r\n".join(f'"{name}",{label}' for name, label in rows)
    return [
        _table(("image", "label"), *rows),
        _table(*patients),
        b"\xef\xbb\xbfimage,label\r\n" + quoted.encode() + b"\r\n",
    ]


def splits() -> list[bytes]:
    """split.csv of the images of `NAMES`."""
    parts = ("train", "test", "train", "validation", "train", "test")
    rows = [
        (name, digest, name.split("/")[0], "g1" if number < 2 else "", part, 5)
        for number, (name, digest, part) in enumerate(zip(NAMES, digests(), parts, strict=True))
    ]
    return [_table(("image", "sha256", "label", "group", "part", "copies"), *rows)]


def groups() -> list[bytes]:
    """groups.csv of the images of `NAMES`, and patients."""
    return [
        _table(("image", "group"), *((n, f"g{i // 2}") for i, n in enumerate(NAMES))),
        _table(("Image", "Patient"), *((n, f"p{i % 2}") for i, n in enumerate(NAMES))),
    ]  # fmt: skip


def predictions() -> list[bytes]:
    """predictions_test.csv of the images of `NAMES`, in two copies."""
    rows = [(name, copy, name.split("/")[0], 0.5, 0.25, 0.25) for name in NAMES for copy in (0, 1)]
    return [_table(("image", "copy", "label", *CLASSES), *rows)]


def histories() -> list[bytes]:
    """metrics.jsonl of two epochs."""
    lines = [
        {"step": 9 * epoch, "epoch": float(epoch), "part": part, "loss": 1.5, "accuracy": 0.5,
         "precision": None, "recall": 0.25}
        for epoch in (1, 2)
        for part in ("train", "test")
    ]  # fmt: skip
    return ["".join(json.dumps(line) + "\n" for line in lines).encode()]


def configs() -> list[bytes]:
    """config.json of a run, without origins and with one."""
    from configs import fusion
    from jaxbusi.settings import Settings

    config = Settings.from_config(fusion.get_config()).to_json()
    origin = {
        "format": "timm's ViT or DeiT", "branch": "vit", "sha256": "0" * 64,
        "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
        "stated": "assumed", "crop": 224, "class_token": True, "layer_scale": False,
        "dropped": ["head.weight"],
    }  # fmt: skip
    return [
        json.dumps({"config": config, "seed": 0, "origins": origins}, indent=2).encode()
        for origins in ({}, {"vit": origin})
    ]


def overrides() -> list[bytes]:
    """Command lines, an argument a line."""
    return [
        "\n".join(f"--config.{key}={value}" for key, value in pairs.items()).encode()
        for pairs in (
            {"seed": 3, "num_epochs": 2.5, "data.root": "some/folder", "data.protocol": "clean"},
            {"model.hidden": "(64, 32)", "model.branches": "('resnet18',)", "batch_size": 8},
            {"data.augment.scale": "(0.5, 1.0)", "data.folds": 5, "model.remat": True},
            {"optim.name": "adamw", "optim.factors.vit": 0.1, "freeze.vit": -1, "accumulate": 2},
        )
    ]


def files_of(folder: Path) -> list[bytes]:
    """Each file of a folder: its name in the folder, a line end, its content."""
    return [
        path.relative_to(folder).as_posix().encode() + b"\n" + path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    ]
