"""DICOM files as pydicom writes them: pixels, frames and regions; and nothing of the patient."""

import functools
import io
import logging
import os
import struct
import traceback
from pathlib import Path

import numpy as np
import pydicom
import pytest
from PIL import Image

from jaxbusi.data import dicom, inputs
from jaxbusi.data.busi import read_records
from jaxbusi.data.dicom import count_frames, open_clip
from jaxbusi.data.images import ImageError, decode_image, decode_mask, is_image
from scripts.fuzz_dicom import (
    BIG_ENDIAN,
    EXPLICIT,
    IMPLICIT,
    JPEG,
    JPEG_2000,
    LOSSLESS,
    PATIENT,
    RLE,
    compressed,
    encode,
    lossless_jpeg,
    regions,
    run_lengths,
)

SIZE = (6, 8)
GRAY = np.random.default_rng(0).integers(0, 256, SIZE, np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (*SIZE, 3), np.uint8)
SMOOTH = np.linspace(0, 200, 6 * 8 * 3).reshape(*SIZE, 3).astype(np.uint8)
PLANES = [np.ascontiguousarray(RGB[:, :, i]).tobytes() for i in range(3)]


def decoded(data):
    return decode_image(data, "x.dcm")


@pytest.mark.parametrize("syntax", [IMPLICIT, EXPLICIT, BIG_ENDIAN])
def test_gray(syntax):
    found = decoded(encode([GRAY.tobytes()], SIZE, syntax=syntax))
    assert found.dtype == np.uint8
    np.testing.assert_array_equal(found, np.repeat(GRAY[:, :, None], 3, axis=2))
    inverted = decoded(encode([GRAY.tobytes()], SIZE, "MONOCHROME1", syntax))
    np.testing.assert_array_equal(inverted[:, :, 1], 255 - GRAY)


def jpeg(image):
    return compressed(image, "JPEG", quality=100, subsampling=0)


def ybr(rgb):
    return np.asarray(Image.fromarray(rgb).convert("YCbCr"))


@pytest.mark.parametrize(
    ("frame", "meaning", "syntax", "elements"),
    [
        (RGB.tobytes(), "RGB", EXPLICIT, {}),
        (b"".join(PLANES), "RGB", IMPLICIT, {"PlanarConfiguration": 1}),
        (run_lengths(PLANES), "RGB", RLE, {"PlanarConfiguration": 1}),
        (lossless_jpeg(RGB), "RGB", LOSSLESS, {}),
        (compressed(Image.fromarray(RGB), "JPEG2000", no_jp2=True), "RGB", JPEG_2000, {}),
        (compressed(Image.fromarray(RGB), "JPEG2000", no_jp2=True, mct=1), "YBR_RCT", JPEG_2000,
         {}),
    ],
)  # fmt: skip
def test_colour_without_loss(frame, meaning, syntax, elements):
    np.testing.assert_array_equal(decoded(encode([frame], SIZE, meaning, syntax, **elements)), RGB)


@pytest.mark.parametrize(
    ("frame", "meaning", "syntax"),
    [
        (ybr(SMOOTH).tobytes(), "YBR_FULL", EXPLICIT),
        (lossless_jpeg(ybr(SMOOTH)), "YBR_FULL", LOSSLESS),
        (run_lengths([ybr(SMOOTH)[:, :, i].tobytes() for i in range(3)]), "YBR_FULL", RLE),
        (jpeg(Image.fromarray(SMOOTH)), "YBR_FULL", JPEG),
        (jpeg(Image.fromarray(SMOOTH)), "YBR_FULL_422", JPEG),
        # Values that are not YCbCr, and no marker that says so: the header does.
        (jpeg(Image.merge("YCbCr", Image.fromarray(SMOOTH).split())), "RGB", JPEG),
    ],
)  # fmt: skip
def test_colour_with_loss(frame, meaning, syntax):
    found = decoded(encode([frame], SIZE, meaning, syntax)).astype(int)
    assert np.abs(found - SMOOTH).max() <= 12


def test_colour_that_two_pixels_share():
    """Two of brightness, one of each colour; by hand: (76, 85, 255) is red."""
    pairs = np.array([[76, 76, 85, 255], [29, 150, 128, 128]], np.uint8)
    found = decoded(encode([pairs.tobytes()], (1, 4), "YBR_FULL_422"))
    assert found.shape == (1, 4, 3)
    np.testing.assert_allclose(found[0], [[254, 0, 0]] * 2 + [[29] * 3, [150] * 3], atol=1)


def test_a_palette():
    table = {"Red": [0, 255, 7], "Green": [10, 0, 7], "Blue": [20, 128, 7]}
    elements = {
        f"{name}PaletteColorLookupTable{part}": value
        for name, colours in table.items()
        for part, value in (
            ("Descriptor", [3, 5, 16]),
            ("Data", struct.pack("<3H", *(257 * c for c in colours))),
        )
    }
    found = decoded(encode([bytes([0, 5, 6, 7, 8, 200])], (1, 6), "PALETTE COLOR", **elements))
    first, second, third = zip(*table.values(), strict=True)
    assert found[0].tolist() == [list(c) for c in (first, first, second, third, third, third)]


DEEP = np.array([[0, 1, 1000, 2048, 3000, 4095]], np.uint16)


@pytest.mark.parametrize(
    ("elements", "wanted"),
    [
        ({}, DEEP[0] / 4095 * 255),  # the range of 12 bits
        ({"WindowCenter": 1000.5, "WindowWidth": 2001}, np.clip(DEEP[0] / 2000, 0, 1) * 255),
        ({"WindowCenter": [1000, 5], "WindowWidth": [2000, 9], "VOILUTFunction": "LINEAR_EXACT"},
         np.clip(DEEP[0] / 2000, 0, 1) * 255),
        ({"WindowCenter": 1000, "WindowWidth": 400, "VOILUTFunction": "SIGMOID"},
         255 / (1 + np.exp(-4 * (DEEP[0].astype(float) - 1000) / 400))),
        ({"WindowCenter": 2001, "WindowWidth": 4001, "RescaleSlope": 2, "RescaleIntercept": 0},
         np.clip((2 * DEEP[0] - 0.5) / 4000, 0, 1) * 255),
        ({"RescaleSlope": -1, "RescaleIntercept": 5}, 255 - DEEP[0] / 4095 * 255),
    ],
)  # fmt: skip
@pytest.mark.parametrize("syntax", [EXPLICIT, BIG_ENDIAN, RLE])
def test_more_than_8_bits(elements, wanted, syntax):
    stored = DEEP.astype(">u2" if syntax == BIG_ENDIAN else "<u2").tobytes()
    if syntax == RLE:
        stored = run_lengths([stored[1::2], stored[::2]])
    found = decoded(encode([stored], (1, 6), syntax=syntax, bits=16, used=12, **elements))
    np.testing.assert_allclose(found[0, :, 0], wanted, atol=0.6)


def test_numbers_with_a_sign_and_other_things_in_the_upper_bits():
    stored = np.array([[-2048, -1, 0, 2047]], "<i2").tobytes()
    found = decoded(encode([stored], (1, 4), bits=16, used=12, PixelRepresentation=1))
    assert found[0, :, 0].tolist() == [0, 127, 128, 255]
    annotated = (DEEP | 0xF000).tobytes()
    np.testing.assert_array_equal(
        decoded(encode([annotated], (1, 6), bits=16, used=12)),
        decoded(encode([DEEP.tobytes()], (1, 6), bits=16, used=12)),
    )


def lut(values, bits, order="<"):
    table = pydicom.Dataset()
    table.LUTDescriptor = [len(values), 0, bits]
    table.LUTData = values.astype(f"{order}u2").tobytes()
    table["LUTData"].VR = "OW"
    return table


@pytest.mark.parametrize(("syntax", "order"), [(EXPLICIT, "<"), (BIG_ENDIAN, ">")])
def test_a_table_of_values(syntax, order):
    table = lut(255 - np.arange(4096) // 16, 8, order)
    frame = DEEP.astype(f"{order}u2").tobytes()
    stored = encode([frame], (1, 6), syntax=syntax, bits=16, used=12, VOILUTSequence=[table])
    assert decoded(stored)[0, :, 0].tolist() == (255 - DEEP[0] // 16).tolist()


def test_a_table_in_place_of_slope_and_intercept():
    """Of 12 bits to 10, upside down; then without a window, with one, with a second table."""
    table = lut(1023 - np.arange(4096) // 4, 10)
    numbers = 1023 - DEEP[0].astype(int) // 4
    for elements, wanted in (
        ({}, numbers / 1023 * 255),
        ({"WindowCenter": 500.5, "WindowWidth": 801}, np.clip((numbers - 100) / 800, 0, 1) * 255),
        ({"VOILUTSequence": [lut(np.arange(1024) // 4, 8)]}, numbers // 4),
    ):
        stored = encode([DEEP.tobytes()], (1, 6), bits=16, used=12, ModalityLUTSequence=[table],
                        **elements)  # fmt: skip
        np.testing.assert_allclose(decoded(stored)[0, :, 0], wanted, atol=0.6)


def functional_groups(**groups):
    """An item of functional groups, each with one item of the elements that are given."""
    found = pydicom.Dataset()
    for name, elements in groups.items():
        item = pydicom.Dataset()
        for keyword, value in elements.items():
            setattr(item, keyword, value)
        setattr(found, name, [item])
    return [found]


def test_what_the_frames_of_an_enhanced_file_share():
    shared = functional_groups(
        PixelValueTransformationSequence={"RescaleSlope": 2, "RescaleIntercept": 10},
        FrameVOILUTSequence={"WindowCenter": 2000.5, "WindowWidth": 4001},
    )
    stored = functools.partial(encode, [DEEP.tobytes()], (1, 6), bits=16, used=12)
    found = decoded(stored(SharedFunctionalGroupsSequence=shared))
    np.testing.assert_allclose(found[0, :, 0], np.clip((2 * DEEP[0] + 10) / 4000, 0, 1) * 255,
                               atol=0.6)  # fmt: skip
    with pytest.raises(ImageError, match="has a scale or window for each frame, which is not read"):
        decoded(stored(PerFrameFunctionalGroupsSequence=shared))
    # Of 8 bits no window is applied, whoever has it.
    plain = encode([GRAY.tobytes()], SIZE, PerFrameFunctionalGroupsSequence=shared)
    np.testing.assert_array_equal(decoded(plain)[:, :, 0], GRAY)


def test_16_bits_in_jpeg_2000():
    image = Image.fromarray(np.arange(48, dtype=np.uint16).reshape(6, 8) * 1000)
    frame = compressed(image, "JPEG2000", no_jp2=True)
    found = decoded(encode([frame], SIZE, syntax=JPEG_2000, bits=16))
    np.testing.assert_allclose(found[:, :, 0], np.asarray(image) / 65535 * 255, atol=0.6)


def test_frames_of_a_clip(tmp_path):
    frames = [np.full(SIZE, 20 * n, np.uint8) for n in range(1, 6)]
    ways = {
        EXPLICIT: [frame.tobytes() for frame in frames],
        RLE: [run_lengths([frame.tobytes()]) for frame in frames],
        LOSSLESS: [lossless_jpeg(frame) for frame in frames],
    }
    for syntax, stored in ways.items():
        for offsets in (True, False):
            path = tmp_path / "clip.dcm"
            path.write_bytes(encode(stored, SIZE, syntax=syntax, offsets=offsets))
            assert count_frames(str(path)) == 5
            with open_clip(path, "clip") as clip:
                assert [clip.read(n).max() for n in (4, 1, 5)] == [80, 20, 100]
                with pytest.raises(ImageError, match="clip: has no frame 6; it has 5"):
                    clip.read(6)
    with pytest.raises(ImageError, match=r"x\.dcm: is a clip of 5 frames where one image is need"):
        decoded(path.read_bytes())


def test_a_frame_in_several_fragments(tmp_path):
    whole = [lossless_jpeg(np.full(SIZE, n, np.uint8)) for n in (7, 9)]
    data = pydicom.encaps.encapsulate(whole, fragments_per_frame=2, has_bot=True)
    dataset = pydicom.dcmread(io.BytesIO(encode(whole, SIZE, syntax=LOSSLESS)))
    dataset.PixelData = data
    dataset.save_as(tmp_path / "x")
    with open_clip(tmp_path / "x", "x") as clip:
        assert [clip.read(n).max() for n in (1, 2)] == [7, 9]


def test_only_tissue_is_seen():
    found = decoded(
        encode(
            [RGB.tobytes()],
            SIZE,
            "RGB",
            SequenceOfUltrasoundRegions=regions(
                (1, 1, 1, 2, 3, 4), (1, 1, 3, 1, 6, 3), (3, 3, 0, 0, 7, 5), (1, 2, 0, 0, 7, 5)
            ),
        )
    )
    wanted = RGB[1:5, 1:7].copy()
    wanted[0, :2] = wanted[3, 3:] = 0  # in the rectangle around both, and in neither
    np.testing.assert_array_equal(found, wanted)


def test_a_region_whose_corner_has_a_sign_is_that_within_the_frame():
    """Where it begins outside, nothing was left, which ended a whole prediction."""
    data = encode([GRAY.tobytes()], SIZE, SequenceOfUltrasoundRegions=regions((1, 1, 99, 2, 3, 4)))
    stated, signed = (kind + struct.pack("<Hl", 4, x) for kind, x in ((b"UL", 99), (b"SL", -1)))
    assert data.count(stated) == 1
    np.testing.assert_array_equal(decoded(data.replace(stated, signed))[:, :, 0], GRAY[2:5, :4])


@pytest.mark.parametrize("boxes", [(), [(3, 3, 0, 0, 2, 2)], [(1, 1, 8, 0, 20, 5)]])
def test_without_regions_of_tissue_the_whole_frame_is_seen(boxes):
    elements = {"SequenceOfUltrasoundRegions": regions(*boxes)}
    np.testing.assert_array_equal(decoded(encode([RGB.tobytes()], SIZE, "RGB", **elements)), RGB)


def test_which_files_are_images(tmp_path):
    data = encode([GRAY.tobytes()], SIZE)
    for name in ("a.dcm", "b.DICOM", "IM0001", "1.2.840.113619.2.55", "DICOMDIR", "x.txt"):
        (tmp_path / name).write_bytes(data)
    (tmp_path / "README").write_text("not one")
    (tmp_path / "folder").mkdir()
    os.mkfifo(tmp_path / "pipe")
    found = {path.name for path in tmp_path.iterdir() if is_image(str(path))}
    assert found == {"a.dcm", "b.DICOM", "IM0001", "1.2.840.113619.2.55"}


def test_a_pipe_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "x.dcm")
    assert count_frames(str(tmp_path / "x.dcm")) == 1
    with (
        pytest.raises(ImageError, match=r"cannot be read \(no regular file\)"),
        open_clip(tmp_path / "x.dcm", "x"),
    ):
        pass
    [path] = inputs.find_inputs([str(tmp_path)])
    with (
        inputs.Reader() as reader,
        pytest.raises(ImageError, match="x: is no regular file; put the image itself there"),
    ):
        reader.read(path, "x")


def test_a_set_for_training(tmp_path):
    for name in ("benign/1.dcm", "malignant/IM01", "normal/2.dcm"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(encode([GRAY.tobytes()], SIZE))
    records = read_records(tmp_path, require_all=True)
    assert [record.name for record in records] == ["benign/1.dcm", "malignant/IM01", "normal/2.dcm"]
    for record in records:
        assert decode_image(record.image.read_bytes(), record.name).shape == (*SIZE, 3)
    with pytest.raises(ImageError, match="is DICOM, as which masks are not read"):
        decode_mask(records[0].image.read_bytes(), "mask")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"syntax": "1.2.840.10008.1.2.4.80"}, "stored as JPEG-LS Lossless Image Compression, whi"),
        ({"syntax": "1.2.840.10008.1.2.4.102"}, "stored as MPEG-4 AVC/H.264 High Profile"),
        ({"syntax": "1.2.840.10008.1.2.1.99"}, "stored as Deflated Explicit VR Little Endian, wh"),
        ({"syntax": "1.2.3.4"}, "a syntax that is unknown"),
        ({"meaning": "HSV"}, "a photometric interpretation that is not read"),
        ({"Rows": 60_000, "Columns": 60_000}, "more than the 64,000,000 pixels"),
        ({"NumberOfFrames": 10_001}, "more than the 10,000 frames"),
        ({"NumberOfFrames": 3}, "is truncated: it should hold 3 frames of 8x6 pixels"),
        ({"Rows": 7}, "is truncated: it should hold 1 frames of 8x7 pixels"),
        ({"Rows": None}, r"is damaged \(AttributeError\)"),
        ({"BitsAllocated": 32}, "values of other than 8 or 16 bits"),
        ({"bits": 16, "used": 12, "Columns": 4, "HighBit": 15}, "in other bits than the lowest"),
        ({"bits": 16, "used": 12, "Columns": 4, "WindowCenter": 5, "WindowWidth": 0}, "window wit"),
    ],
)
def test_what_is_refused(changes, message):
    data = encode([GRAY.tobytes()], SIZE, **changes)
    with pytest.raises(ImageError, match=message) as error:
        decoded(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("is_asked_for", [False, True])
@pytest.mark.parametrize("is_counted", [False, True])
def test_a_sequence_that_is_too_long_is_not_followed(is_asked_for, is_counted, monkeypatch):
    """Its empty items take 8 bytes each in the file, and a hundred times as much in memory."""
    monkeypatch.setattr(dicom, "_LONGEST_HEADER", 4000)
    plain = encode([GRAY.tobytes()], SIZE)
    place = plain.index(struct.pack("<HH", 0x28, 2) + b"US")
    element = 0x6011 if is_asked_for else 0x6010  # regions of ultrasound, and none there is
    for items in (10, 1000):
        length = 8 * items if is_counted else 0xFFFFFFFF
        sequence = struct.pack("<HH2sHL", 0x18, element, b"SQ", 0, length)
        sequence += items * struct.pack("<HHL", 0xFFFE, 0xE000, 0)
        sequence += b"" if is_counted else struct.pack("<HHL", 0xFFFE, 0xE0DD, 0)
        data = plain[:place] + sequence + plain[place:]
        if items == 10 or (is_counted and not is_asked_for):  # the latter is passed over
            np.testing.assert_array_equal(decoded(data)[:, :, 0], GRAY)
        else:
            with pytest.raises(ImageError, match="in its header; save it as PNG"):
                decoded(data)


@pytest.mark.parametrize(
    ("frame", "syntax", "message"),
    [
        (lossless_jpeg(GRAY[:5]), LOSSLESS, "it holds 8x5 pixels .* than the 8x6 that its header"),
        (lossless_jpeg(RGB), LOSSLESS, "pixels of another kind"),
        (lossless_jpeg(GRAY)[:50], LOSSLESS, "is damaged"),
        (run_lengths([bytes(48), bytes(48)]), RLE, "another number of segments"),
        (run_lengths([bytes(40)]), RLE, "is damaged"),
        (64 * b"\0", RLE, "another number of segments"),
        (bytes(200_000), RLE, "takes more than its pixels would"),
        (b"nonsense", JPEG, "is damaged"),
        (b"nonsense", JPEG_2000, "begins with no codestream"),
    ],
)
def test_damaged_frames_are_refused(frame, syntax, message):
    with pytest.raises(ImageError, match=message):
        decoded(encode([frame], SIZE, syntax=syntax))


def test_nothing_of_the_patient_is_said(tmp_path, caplog, capfd, recwarn):
    """Every byte of a file damaged in turn, and every element made into what it is not."""
    whole = encode(
        [GRAY.tobytes()], SIZE, PatientComments=PATIENT, SpecificCharacterSet="ISO_IR 100"
    )
    caplog.set_level(logging.DEBUG)
    said, carried = [], []

    def read(data):
        path = tmp_path / "x.dcm"
        path.write_bytes(data)
        count_frames(str(path))
        try:
            decoded(data)
        except ImageError as error:
            said.append("".join(traceback.format_exception(error)))
            carried.append(error.__context__)

    for place in range(132, len(whole) - GRAY.size):
        read(
            whole[:place] + bytes([whole[place] ^ (0xFF if place % 2 else 1)]) + whole[place + 1 :]
        )
    for value in (b"ISO_IR 100", b"MONOCHROME2 ", JPEG.encode()):  # as a name that is quoted
        planted = PATIENT.encode().ljust(len(value))[: len(value)]
        read(whole.replace(value, planted))
        read(encode([GRAY.tobytes()], SIZE, syntax=JPEG).replace(value, planted))
    assert len(said) > 100
    assert set(carried) == {None}
    everything = "".join(said) + caplog.text + "".join(capfd.readouterr())
    everything += "".join(str(warning.message) for warning in recwarn)
    assert "Planted" not in everything
    assert "Plant" not in everything


def test_without_pydicom_it_says_what_to_install(monkeypatch, tmp_path):
    monkeypatch.setitem(__import__("sys").modules, "pydicom", None)
    data = tmp_path / "x.dcm"
    data.write_bytes(bytes(128) + b"DICM" + bytes(50))
    assert count_frames(str(data)) == 1
    with pytest.raises(ImageError, match=r"needs pydicom; pip install 'jaxbusi\[dicom\]'"):
        decoded(data.read_bytes())


def test_a_clip_is_read_a_frame_at_a_time(tmp_path, monkeypatch):
    """Of a clip of 100 frames, what is read for one of them is the header and this one."""
    size = (100, 100)
    path = Path(tmp_path / "clip.dcm")
    path.write_bytes(encode([bytes(10_000)] * 100, size))
    seen = []
    open_regular = dicom.open_regular

    def watched(path):
        file = open_regular(path)

        class Watched(io.BytesIO):
            def read(self, size=-1):
                data = file.read(size)
                seen.append(len(data))
                return data

            def seek(self, *where):
                return file.seek(*where)

            def tell(self):
                return file.tell()

            def close(self):
                file.close()

        return Watched()

    monkeypatch.setattr(dicom, "open_regular", watched)
    with open_clip(path, "clip") as clip:
        clip.read(77)
    assert sum(seen) < 25_000
