"""Small valid DICOM files of every kind that is read, for `scripts/fuzz.py` and the tests."""

import io
import struct
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from PIL import Image

IMPLICIT, EXPLICIT = "1.2.840.10008.1.2", "1.2.840.10008.1.2.1"
BIG_ENDIAN, RLE = "1.2.840.10008.1.2.2", "1.2.840.10008.1.2.5"
JPEG, LOSSLESS = "1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.70"
JPEG_2000 = "1.2.840.10008.1.2.4.90"
PATIENT = "Planted^Patience"
"""The name of the patient in every file."""


def encode(
    frames: Sequence[bytes],
    size: tuple[int, int],
    meaning: str = "MONOCHROME2",
    syntax: str = EXPLICIT,
    *,
    bits: int = 8,
    used: int = 0,
    offsets: bool = True,
    **elements: Any,
) -> bytes:
    """Writes a file.

    Args:
      frames: the pixels of each, as the transfer syntax has them.
      size: rows and columns.
      meaning: the photometric interpretation.
      syntax: the UID of the transfer syntax.
      bits: of a value as it is stored.
      used: how many of these the value has; all by default.
      offsets: whether compressed frames have a table of where they begin.
      **elements: more of the dataset, by keyword.
    """
    from pydicom import Dataset, FileDataset
    from pydicom.dataset import FileMetaDataset
    from pydicom.encaps import encapsulate
    from pydicom.uid import UID

    meta = FileMetaDataset()
    meta.TransferSyntaxUID = UID(syntax)
    meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.3.1")
    meta.MediaStorageSOPInstanceUID = UID("1.2.3")
    dataset = FileDataset(
        "x",
        Dataset(),
        file_meta=meta,
        preamble=bytes(128),
        is_implicit_VR=syntax == IMPLICIT,
        is_little_endian=syntax != BIG_ENDIAN,
    )
    used = used or bits
    samples = 1 if meaning.startswith(("MONO", "PALETTE")) else 3
    named = {
        "PatientName": PATIENT, "PatientID": f"ID-{PATIENT}", "InstitutionName": PATIENT,
        "Rows": size[0], "Columns": size[1], "SamplesPerPixel": samples,
        "PhotometricInterpretation": meaning, "BitsAllocated": bits, "BitsStored": used,
        "HighBit": used - 1, "PixelRepresentation": 0, "NumberOfFrames": len(frames),
    }  # fmt: skip
    if samples == 3:
        named["PlanarConfiguration"] = 0
    for name, value in (named | elements).items():
        if value is not None:
            setattr(dataset, name, value)
    data = b"".join(frames)
    wrapped = syntax not in (IMPLICIT, EXPLICIT, BIG_ENDIAN)
    dataset.PixelData = encapsulate(list(frames), has_bot=offsets) if wrapped else data + b"\0" * (
        len(data) % 2
    )  # fmt: skip
    dataset["PixelData"].VR = "OB" if wrapped or bits == 8 else "OW"
    stream = io.BytesIO()
    dataset.save_as(stream, enforce_file_format=True)
    return stream.getvalue()


def regions(*boxes: tuple[int, int, int, int, int, int]) -> list[Any]:
    """Regions by spatial format, data type, left, top, right and bottom."""
    from pydicom import Dataset

    names = ("SpatialFormat", "DataType", "LocationMinX0", "LocationMinY0", "LocationMaxX1",
             "LocationMaxY1")  # fmt: skip
    found = []
    for box in boxes:
        region = Dataset()
        for name, value in zip(names, box, strict=True):
            setattr(region, f"Region{name}", value)
        found.append(region)
    return found


def run_lengths(planes: Sequence[bytes]) -> bytes:
    """A frame of the transfer syntax RLE, of one segment for each plane of bytes, all literal."""
    segments = []
    for plane in planes:
        pieces = [plane[i : i + 128] for i in range(0, len(plane), 128)]
        segment = b"".join(bytes([len(piece) - 1]) + piece for piece in pieces)
        segments.append(segment + b"\0" * (len(segment) % 2))
    begins = [64 + sum(map(len, segments[:i])) for i in range(len(segments))]
    head = struct.pack("<16L", len(segments), *begins, *(15 - len(begins)) * [0])
    return head + b"".join(segments)


def lossless_jpeg(values: np.ndarray) -> bytes:
    """JPEG's lossless process, first-order prediction, of uint8[H, W] or uint8[H, W, 3].

    A difference of n bits has the code n of 5 bits, and then its n bits.
    """
    planes = values[:, :, None] if values.ndim == 2 else values
    rows, columns, samples = planes.shape
    left = np.roll(planes.astype(int), 1, axis=1)
    left[1:, 0] = planes[:-1, 0]  # a line begins from the one above
    left[0, 0] = 128
    bits = ""
    for difference in (planes - left).ravel().tolist():
        size = abs(difference).bit_length()
        code = difference if difference > 0 else difference + (1 << size) - 1
        bits += f"{size:05b}" + (f"{code:0{size}b}" if size else "")
    bits += "1" * (-len(bits) % 8)
    scan = int(bits, 2).to_bytes(len(bits) // 8, "big").replace(b"\xff", b"\xff\x00")

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    ids = range(1, samples + 1)
    frame = struct.pack(">BHHB", 8, rows, columns, samples)
    huffman = bytes([0, 0, 0, 0, 0, 17, *11 * [0], *range(17)])
    return (
        b"\xff\xd8"
        + segment(0xC3, frame + b"".join(bytes([i, 0x11, 0]) for i in ids))
        + segment(0xC4, huffman)
        + segment(0xDA, bytes([samples, *(b for i in ids for b in (i, 0)), 1, 0, 0]))
        + scan
        + b"\xff\xd9"
    )


def compressed(image: Image.Image, kind: str, **options: Any) -> bytes:
    """An image as Pillow writes it; JPEG without the marker JFIF, which DICOM has not."""
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    data = stream.getvalue()
    if kind == "JPEG" and data[2:4] == b"\xff\xe0":
        return data[:2] + data[4 + int.from_bytes(data[4:6], "big") :]
    return data


def _lut(entries: int, bits: int) -> Any:
    """An item of a table, from 0 to the most of its bits."""
    from pydicom import Dataset

    table = Dataset()
    table.LUTDescriptor = [entries, 0, bits]
    table.LUTData = np.linspace(0, (1 << bits) - 1, entries).astype("<u2").tobytes()
    table["LUTData"].VR = "OW"
    return table


def _shared() -> list[Any]:
    """Functional groups that all frames share: a window."""
    from pydicom import Dataset

    window, groups = Dataset(), Dataset()
    window.WindowCenter, window.WindowWidth = 500, 900
    groups.FrameVOILUTSequence = [window]
    return [groups]


def seeds(gray: Image.Image, colour: Image.Image) -> list[bytes]:
    """Files of the pixels of two images of one size."""
    values, colours = np.asarray(gray), np.asarray(colour)
    size = values.shape
    plain, rgb = values.tobytes(), colours.tobytes()
    deep = (values.astype(np.uint16) * 16).tobytes()
    swapped = (values.astype(">u2") * 16).astype(">u2").tobytes()
    table = np.arange(256, dtype="<u2").tobytes()
    palette: Mapping[str, Any] = {
        f"{name}PaletteColorLookupTable{part}": value
        for name in ("Red", "Green", "Blue")
        for part, value in (("Descriptor", [256, 0, 8]), ("Data", table))
    }
    planes = [np.ascontiguousarray(colours[:, :, i]).tobytes() for i in range(3)]
    ycc = np.asarray(colour.convert("YCbCr"))
    halved = np.concatenate([ycc.reshape(-1, 2, 3)[:, :, 0], ycc[:, ::2, 1:].reshape(-1, 2)], 1)
    jpeg = compressed(gray, "JPEG")
    return [
        encode([plain], size),
        encode([plain, plain[::-1], plain], size, "MONOCHROME1", IMPLICIT),
        encode([deep], size, bits=16, used=12, WindowCenter=900, WindowWidth=1000),
        encode([swapped], size, syntax=BIG_ENDIAN, bits=16, used=12, PixelRepresentation=1,
               RescaleSlope=2, RescaleIntercept=-5),
        encode([deep], size, bits=16, used=12, ModalityLUTSequence=[_lut(4096, 10)],
               VOILUTSequence=[_lut(1024, 8)], SharedFunctionalGroupsSequence=_shared()),
        encode([plain], size, "PALETTE COLOR", **palette),
        encode([rgb], size, "RGB", SequenceOfUltrasoundRegions=regions(
            (1, 1, 3, 2, 20, 15), (1, 1, 10, 12, 25, 20), (3, 3, 0, 0, 31, 1))),
        encode([b"".join(planes)], size, "RGB", PlanarConfiguration=1),
        encode([ycc.tobytes()], size, "YBR_FULL"),
        encode([halved.astype(np.uint8).tobytes()], size, "YBR_FULL_422"),
        encode([run_lengths(planes)] * 2, size, "RGB", RLE),
        encode([run_lengths([deep[1::2], deep[::2]])], size, syntax=RLE, bits=16, used=12),
        encode([jpeg, jpeg], size, syntax=JPEG, offsets=False),
        encode([compressed(colour, "JPEG", subsampling=1)], size, "YBR_FULL_422", JPEG),
        encode([lossless_jpeg(values)], size, syntax=LOSSLESS),
        encode([lossless_jpeg(colours)], size, "RGB", LOSSLESS),
        encode([compressed(gray, "JPEG2000", no_jp2=True)], size, syntax=JPEG_2000),
        encode([compressed(colour, "JPEG2000", no_jp2=True, mct=1)], size, "YBR_RCT", JPEG_2000),
    ]  # fmt: skip
