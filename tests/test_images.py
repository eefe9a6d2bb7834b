"""Every pixel mode and every kind of damage, made here with Pillow and OpenCV."""

import io
import pickle
import struct
import warnings
import zlib

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxbusi.data import images
from jaxbusi.data.images import ImageError, decode_image, decode_mask, lesion_mask, resize

GRAY = np.arange(0, 240, 4, dtype=np.uint8).reshape(6, 10)


def encode(image: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    stream = io.BytesIO()
    image.save(stream, kind, **options)
    return stream.getvalue()


def test_lossless_formats_keep_gray_and_colour():
    rng = np.random.default_rng(0)
    colour = rng.integers(0, 256, (7, 5, 3), dtype=np.uint8)
    for kind in ("PNG", "BMP", "TIFF"):
        decoded = decode_image(encode(Image.fromarray(GRAY), kind), "a")
        assert decoded.dtype == np.uint8
        np.testing.assert_array_equal(decoded, np.stack([GRAY] * 3, axis=2))
        np.testing.assert_array_equal(
            decode_image(encode(Image.fromarray(colour), kind), "a"), colour
        )


def test_jpeg_gray_colour_and_cmyk():
    gradient = np.tile(np.arange(64, dtype=np.uint8) * 4, (48, 1))
    for mode in ("L", "RGB", "CMYK"):
        data = encode(Image.fromarray(gradient).convert(mode), "JPEG", quality=95)
        decoded = decode_image(data, "a.jpg")
        assert decoded.shape == (48, 64, 3)
        assert np.abs(decoded.astype(int) - gradient[:, :, None]).max() <= 6, mode


def test_palette_one_bit_and_lossless_compressed_tiff():
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.putdata([1, 0])
    np.testing.assert_array_equal(decode_image(encode(palette), "p"), [[[10, 200, 30], [0, 0, 0]]])
    bits = Image.fromarray(np.array([[True, False, True]]))
    assert bits.mode == "1"
    assert decode_image(encode(bits), "b")[0, :, 0].tolist() == [255, 0, 255]
    compressed = encode(Image.fromarray(GRAY), "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode_image(compressed, "t")[:, :, 1], GRAY)


def test_transparency_is_composited_on_black():
    rgba = np.zeros((1, 3, 4), np.uint8)
    rgba[0] = [(200, 100, 50, 255), (200, 100, 50, 0), (200, 100, 50, 128)]
    np.testing.assert_allclose(
        decode_image(encode(Image.fromarray(rgba)), "a")[0],
        [(200, 100, 50), (0, 0, 0), (100, 50, 25)],
        atol=1,
    )
    gray_alpha = Image.fromarray(rgba).convert("LA")
    assert decode_image(encode(gray_alpha), "a")[0, 1].tolist() == [0, 0, 0]
    palette = Image.new("P", (2, 1))
    palette.putpalette([0, 0, 0, 10, 200, 30])
    palette.putdata([1, 0])
    # Bytes of alpha per palette entry: the case in which Pillow warns when it is converted wrongly.
    transparent = decode_image(encode(palette, transparency=b"\xff\x00"), "a")
    assert transparent[0].tolist() == [[0, 0, 0], [0, 0, 0]]
    colour_key = decode_image(encode(Image.new("L", (1, 1), 9), transparency=9), "a")
    assert colour_key.max() == 0


@pytest.mark.parametrize(("bits", "kind"), [(8, "png"), (10, "tiff"), (12, "png"), (16, "tiff")])
def test_sixteen_bit_gray_uses_the_significant_bits(bits: int, kind: str):
    top = (1 << bits) - 1
    values = np.array([[0, top // 4, top // 2, top]], np.uint16)
    data = cv2.imencode(f".{kind}", values)[1].tobytes()
    np.testing.assert_array_equal(
        decode_image(data, "a")[0, :, 0], np.round(values[0] / top * 255).astype(int)
    )


def test_out_of_range_and_float_pixels_are_refused():
    for values in (np.array([[-5, 9]], np.int32), np.array([[0, 70000]], np.int32)):
        with pytest.raises(ImageError, match=r"^deep.tif: holds gray values .* rescale"):
            decode_image(encode(Image.fromarray(values), "TIFF"), "deep.tif")
    data = encode(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    with pytest.raises(ImageError, match=r"^f.tif: holds floating-point"):
        decode_image(data, "f.tif")
    with pytest.raises(ImageError, match="floating-point"):
        decode_mask(data, "f.tif")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_exif_orientation_is_applied_once(kind: str):
    upright = np.zeros((16, 32), np.uint8)
    upright[:8, :8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # "Rotate by 90 degrees clockwise to display".
    stored = Image.fromarray(np.rot90(upright))
    decoded = decode_image(encode(stored, kind, exif=exif), "a")
    assert decoded.shape == (16, 32, 3)
    np.testing.assert_allclose(decoded[:, :, 0], upright, atol=30)
    assert decode_mask(encode(stored, kind, exif=exif), "a")[:8, :8].all()


def test_several_pages_give_the_first():
    pages = [Image.fromarray(np.full((3, 4), value, np.uint8)) for value in (7, 200)]
    for kind in ("TIFF", "PNG"):
        data = encode(pages[0], kind, save_all=True, append_images=pages[1:])
        decoded = decode_image(data, "a")
        assert decoded.shape == (3, 4, 3)
        assert decoded.max() == 7


def png_claiming(width: int, height: int) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"\0")) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


@pytest.mark.parametrize("side", [8_001, 10_000, 60_000])  # Pillow: silent, warns, raises.
def test_bombs_are_refused_with_our_limit(side: int):
    with pytest.raises(ImageError, match=r"^bomb.png: has more than the 64,000,000 pixels"):
        decode_image(png_claiming(side, side), "bomb.png")
    assert images.MAX_PIXELS == 64_000_000


def test_damage_is_one_line_with_the_name():
    noise = np.random.default_rng(0).integers(0, 256, (40, 40), dtype=np.uint8)
    for kind in ("PNG", "JPEG", "BMP", "TIFF"):
        data = encode(Image.fromarray(noise), kind)
        with pytest.raises(ImageError, match=r"^x/y \(1\)\.png: .*damaged or truncated") as caught:
            decode_image(data[: len(data) * 2 // 3], "x/y (1).png")
        assert "\n" not in str(caught.value)
    for data in (b"", b"<html>not found</html>", encode(Image.fromarray(noise), "GIF")):
        with pytest.raises(ImageError, match=r"^z: is (empty|not a PNG, JPEG, BMP, TIFF or DICOM)"):
            decode_image(data, "z")


def test_no_changed_byte_of_a_png_changes_a_pixel_unnoticed():
    noise = np.random.default_rng(0).integers(0, 256, (12, 12), dtype=np.uint8)
    data = encode(Image.fromarray(noise))
    refused = 0
    for position in range(len(data)):
        broken = bytearray(data)
        broken[position] ^= 16
        try:
            decoded = decode_image(bytes(broken), "n")
        except ImageError:
            refused += 1
        else:
            np.testing.assert_array_equal(decoded[:, :, 0], noise)
    assert refused > 0.9 * len(data)


def test_odd_metadata_neither_warns_nor_fails():
    data = encode(Image.fromarray(GRAY), "JPEG", exif=b"Exif\0\0II*\0\x08\0\0\0\x05\0")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with pytest.raises(UserWarning, match="EXIF"):
            Image.open(io.BytesIO(data)).getexif()
        assert decode_image(data, "a").shape == (6, 10, 3)


def test_error_survives_a_worker_process():
    error = pickle.loads(pickle.dumps(ImageError("a.png", "is empty")))
    assert (error.name, error.reason, str(error)) == ("a.png", "is empty", "a.png: is empty")


def test_masks_of_every_mode():
    inside = np.zeros((8, 8), bool)
    inside[2:5, 3:7] = True
    gray = np.where(inside, 255, 0).astype(np.uint8)
    red = np.stack([gray, gray * 0, gray * 0], axis=2)
    palette = Image.fromarray(gray).convert("P")
    encoded = {
        "1": encode(Image.fromarray(inside)),
        "0/255": encode(Image.fromarray(gray)),
        "0/1": encode(Image.fromarray(inside.astype(np.uint8))),
        "red": encode(Image.fromarray(red)),
        "palette": encode(palette),
        "alpha": encode(Image.fromarray(np.dstack([red, gray]))),
        "16 bits": cv2.imencode(".png", inside.astype(np.uint16) * 40000)[1].tobytes(),
        "jpeg": encode(Image.fromarray(gray), "JPEG", quality=90),
        "bmp": encode(Image.fromarray(inside), "BMP"),
    }
    for mode, data in encoded.items():
        mask = decode_mask(data, "m")
        assert mask.dtype == bool
        np.testing.assert_array_equal(mask, inside, err_msg=mode)
    black = np.zeros((8, 8), np.uint8)
    assert not decode_mask(encode(Image.fromarray(black)), "m").any()
    assert not decode_mask(encode(Image.fromarray(black + 3), "JPEG"), "m").any()


def test_lesion_mask_unites_and_refuses_another_size():
    first, second = np.zeros((2, 3, 4), bool)
    first[0, 0] = second[2, 3] = True
    data = [encode(Image.fromarray(mask)) for mask in (first, second)]
    np.testing.assert_array_equal(lesion_mask(data, "b", (3, 4)), first | second)
    assert lesion_mask([], "b", (3, 4)).shape == (3, 4)
    with pytest.raises(ImageError, match=r"^mask 1 of b\.png: measures 4x3 .* the image 3x4"):
        lesion_mask(data, "b.png", (4, 3))


def test_resize_is_antialiased_bilinear():
    """Halving with the triangle filter: a pixel sees its four neighbours as 1, 3, 3, 1 of 8."""
    row = np.array([0, 80, 160, 240, 40, 120, 200, 8], np.uint8)
    image = np.repeat(np.tile(row, (8, 1))[:, :, None], 3, axis=2)
    halved = resize(image, 4)
    assert halved.shape == (4, 4, 3)
    for column in (1, 2):
        window = row[2 * column - 1 : 2 * column + 3].astype(float)
        assert abs(halved[2, column, 0] - window @ [1, 3, 3, 1] / 8) <= 1
    np.testing.assert_array_equal(resize(image[:, :, :1], 4)[:, :, 0], halved[:, :, 0])
    np.testing.assert_array_equal(resize(image, 8), image)
