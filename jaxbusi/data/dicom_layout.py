"""What the header of a DICOM file says of its pixels, and nothing else of it."""

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np

IMPLICIT = "1.2.840.10008.1.2"
BIG_ENDIAN = "1.2.840.10008.1.2.2"
NATIVE = (IMPLICIT, "1.2.840.10008.1.2.1", BIG_ENDIAN)
RLE = "1.2.840.10008.1.2.5"
JPEG = ("1.2.840.10008.1.2.4.50", "1.2.840.10008.1.2.4.51")
JPEG_LOSSLESS = ("1.2.840.10008.1.2.4.57", "1.2.840.10008.1.2.4.70")
JPEG_2000 = ("1.2.840.10008.1.2.4.90", "1.2.840.10008.1.2.4.91")
SYNTAXES = frozenset((*NATIVE, RLE, *JPEG, *JPEG_LOSSLESS, *JPEG_2000))
"""The transfer syntaxes that are read."""

_CODED_GRAY = ("MONOCHROME1", "MONOCHROME2", "PALETTE COLOR")
_COLOUR = ("RGB", "YBR_FULL", "YBR_FULL_422", "YBR_RCT", "YBR_ICT")
_TISSUE = 1  # Region Data Type
_TWO_DIMENSIONAL = 1  # Region Spatial Format
_CORNERS = ("RegionLocationMinX0", "RegionLocationMinY0", "RegionLocationMaxX1",
            "RegionLocationMaxY1")  # fmt: skip
_MOST_REGIONS = 100
_SCALE, _VOI = "PixelValueTransformationSequence", "FrameVOILUTSequence"


class Undecodable(Exception):  # noqa: N818 - what the frame is; becomes an ImageError
    """Why a frame cannot be used; quotes nothing of the file but numbers of pixels and frames."""


@dataclasses.dataclass(frozen=True)
class Layout:
    """What a header says of its frames.

    Attributes:
      syntax: UID of the transfer syntax, one of `SYNTAXES`.
      rows: height, pixels.
      columns: width, pixels.
      frames: how many.
      samples: values of a pixel, 1 or 3.
      meaning: the photometric interpretation.
      planar: whether the three values of a pixel lie in three planes.
      bits: of a value as it is stored, 8 or 16.
      used: of these, how many the value has.
      signed: whether values may be negative.
      rescale: slope and intercept.
      modality: a table of values in place of the two: descriptor and content; None where there is
        none.
      window: centre, width and function; None where there is none.
      table: of values to gray: descriptor and content; None where there is none.
      palette: the same for red, green and blue; empty where there is none.
      regions: of tissue: left, top, right and bottom pixels, the last ones included.
    """

    syntax: str
    rows: int
    columns: int
    frames: int
    samples: int
    meaning: str
    planar: bool
    bits: int
    used: int
    signed: bool
    rescale: tuple[float, float]
    modality: tuple[Sequence[int], Any] | None
    window: tuple[float, float, str] | None
    table: tuple[Sequence[int], Any] | None
    palette: tuple[tuple[Sequence[int], Any], ...]
    regions: tuple[tuple[int, int, int, int], ...]

    @property
    def encapsulated(self) -> bool:
        """Whether frames are compressed, or at least wrapped."""
        return self.syntax not in NATIVE

    @property
    def native_bytes(self) -> int:
        """Bytes of a frame that is not compressed."""
        values = 2 if self.is_subsampled else self.samples
        return self.rows * self.columns * values * (self.bits // 8)

    @property
    def is_subsampled(self) -> bool:
        """Whether two pixels of an uncompressed frame share their colour."""
        return self.meaning == "YBR_FULL_422" and self.syntax in NATIVE


def read_layout(dataset: Any, syntax: str) -> Layout:
    """Takes what decoding needs of a `pydicom.Dataset`.

    Raises:
      Undecodable: it describes no pixels, or such as are not read.
      Exception: any, of a header that is damaged.
    """
    samples, bits = int(dataset.SamplesPerPixel), int(dataset.BitsAllocated)
    used = int(dataset.get("BitsStored") or bits)
    rows, columns = int(dataset.Rows), int(dataset.Columns)
    frames = int(dataset.get("NumberOfFrames") or 1)
    meaning = str(dataset.PhotometricInterpretation).strip()
    if min(rows, columns, frames) < 1:
        raise Undecodable("is damaged: its size is no number of pixels")
    if bits not in (8, 16) or not 1 <= used <= bits:
        raise Undecodable("has values of other than 8 or 16 bits; save it as PNG")
    if meaning not in (_CODED_GRAY if samples == 1 else _COLOUR) or samples not in (1, 3):
        raise Undecodable("has a photometric interpretation that is not read; save it as PNG")
    if used < bits and dataset.get("HighBit") not in (None, used - 1):
        raise Undecodable("has its values in other bits than the lowest; save it as PNG")
    shared = _shared(dataset) if used > 8 else {}
    scale, voi = (shared.get(name, [dataset])[0] for name in (_SCALE, _VOI))
    window = None
    if voi.get("WindowWidth") not in (None, ""):
        function = str(voi.get("VOILUTFunction") or "LINEAR")
        window = (_first(voi.WindowCenter), _first(voi.WindowWidth), function)
    palette = tuple(
        _table(dataset, f"{name}PaletteColorLookupTable", syntax)
        for name in (("Red", "Green", "Blue") if meaning == "PALETTE COLOR" else ())
    )
    return Layout(
        syntax=syntax,
        rows=rows,
        columns=columns,
        frames=frames,
        samples=samples,
        meaning=meaning,
        planar=samples == 3 and int(dataset.get("PlanarConfiguration") or 0) == 1,
        bits=bits,
        used=used,
        signed=int(dataset.get("PixelRepresentation") or 0) == 1,
        rescale=(
            _first(scale.get("RescaleSlope") or 1),
            _first(scale.get("RescaleIntercept") or 0),
        ),
        modality=_first_table(dataset.get("ModalityLUTSequence"), syntax),
        window=window,
        table=_first_table(dataset.get("VOILUTSequence"), syntax),
        palette=palette,
        regions=_tissue(dataset.get("SequenceOfUltrasoundRegions") or (), rows, columns),
    )


def _shared(dataset: Any) -> Any:
    """What an enhanced file says of all its frames, by keyword."""
    for frame in dataset.get("PerFrameFunctionalGroupsSequence") or ():
        if _SCALE in frame or _VOI in frame:
            raise Undecodable("has a scale or window for each frame, which is not read; save the "
                              "frames as PNG")  # fmt: skip
    return (dataset.get("SharedFunctionalGroupsSequence") or [{}])[0]


def _first_table(tables: Any, syntax: str) -> tuple[Sequence[int], Any] | None:
    """Of several tables of gray, the first."""
    return _table(tables[0], "LUT", syntax) if tables else None


def _table(holder: Any, name: str, syntax: str) -> tuple[Sequence[int], Any]:
    """Descriptor and content, whose words have their lower byte first."""
    content = holder[f"{name}Data"].value
    if isinstance(content, bytes) and syntax == BIG_ENDIAN:
        content = np.frombuffer(content, ">u2").astype("<u2").tobytes()
    return holder[f"{name}Descriptor"].value, content


def _first(value: Any) -> float:
    """Of several windows, the first."""
    return float(value if isinstance(value, str | int | float) else value[0])


def _tissue(regions: Any, rows: int, columns: int) -> tuple[tuple[int, int, int, int], ...]:
    """Left, top, right and bottom of the 2D regions of tissue, as far as they are in the frame."""
    found = []
    for region in regions[:_MOST_REGIONS]:
        kind = (region.get("RegionSpatialFormat"), region.get("RegionDataType"))
        if kind == (_TWO_DIMENSIONAL, _TISSUE):
            left, top, right, bottom = (int(region[corner].value) for corner in _CORNERS)
            right, bottom = min(right, columns - 1), min(bottom, rows - 1)
            left, top = max(left, 0), max(top, 0)  # damaged files have numbers with a sign
            if left <= right and top <= bottom:
                found.append((left, top, right, bottom))
    return tuple(found)
