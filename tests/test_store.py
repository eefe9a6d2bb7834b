"""Decoding once or at every use, and what becomes of files that cannot be read."""

import hashlib
import io
import logging
import pickle

import numpy as np
import pytest
from PIL import Image

from jaxbusi.data import busi
from jaxbusi.data.images import ImageError
from jaxbusi.data.records import Record
from jaxbusi.data.store import ImageStore
from jaxbusi.errors import UserError


def png(seed, channels=1, size=(40, 50)):
    rng = np.random.default_rng(seed)
    shape = size if channels == 1 else (*size, channels)
    stream = io.BytesIO()
    Image.fromarray(rng.integers(0, 256, shape, dtype=np.uint8)).save(stream, "png")
    return stream.getvalue()


@pytest.fixture
def records(tmp_path):
    """Six files: gray, and the last one coloured."""
    found = []
    for row in range(6):
        path = tmp_path / f"{row}.png"
        path.write_bytes(png(row, channels=3 if row == 5 else 1))
        found.append(Record(name=f"benign/{row}.png", label=row % 3, image=path))
    return found


def open_store(records, *, cache_gib=1.0, on_bad="error"):
    return ImageStore(records, resize=32, crop=24, cache_gib=cache_gib, on_bad=on_bad)


def pil_square(path, side):
    return np.asarray(Image.open(path).convert("RGB").resize((side, side), Image.BILINEAR))


def test_squares_are_torchvisions_resize(records):
    store = open_store(records)
    assert store.cached
    assert store.records == records
    for row, record in enumerate(records):
        assert store.sha256[row] == hashlib.sha256(record.image.read_bytes()).hexdigest()
        expected = pil_square(record.image, 32)
        assert store.base(row).shape == (32, 32, 3 if row == 5 else 1)
        np.testing.assert_array_equal(np.broadcast_to(store.base(row), (32, 32, 3)), expected)
        np.testing.assert_array_equal(store.view(row), pil_square(record.image, 24))


def test_streaming_gives_the_same_bytes_and_keeps_nothing(records):
    kept, streamed = open_store(records), open_store(records, cache_gib=0)
    assert not streamed.cached
    assert len(pickle.dumps(streamed)) < 5000 < len(pickle.dumps(kept))
    assert streamed.sha256 == kept.sha256
    for row in range(len(records)):
        np.testing.assert_array_equal(streamed.base(row), kept.base(row))
        np.testing.assert_array_equal(streamed.view(row), kept.view(row))


def test_the_limit_counts_channels(records, caplog):
    """Five gray images and a coloured one take 8 · (32² + 24²) bytes."""
    size = 8 * (32**2 + 24**2) / 2**30
    with caplog.at_level(logging.INFO):
        assert open_store(records, cache_gib=size).cached
        assert not open_store(records, cache_gib=size * 0.999).cached
    assert "6 images read" in caplog.messages[0]
    assert "1.19e-05 GiB: kept in memory, within config.data.cache_gib=1.19" in caplog.messages[0]
    assert "1.19e-05 GiB: decoded anew at every use, more than" in caplog.messages[1]


def test_the_log_shows_progress_where_no_terminal_does(records, caplog, monkeypatch):
    monkeypatch.setattr("jaxbusi.data.store._SECONDS_BETWEEN_REPORTS", 0.0)
    with caplog.at_level(logging.INFO):
        open_store(records)
    assert caplog.messages[:6] == [f"{number} of 6 images read" for number in range(1, 7)]


def test_the_cache_cannot_be_written_to(records):
    store = open_store(records)
    with pytest.raises(ValueError, match="read-only"):
        store.base(0)[0, 0] = 1
    store.view(5)[:] = 0
    assert store.view(5).any()


def test_a_pickled_store_serves_the_same_images(records):
    for store in (open_store(records), open_store(records, cache_gib=0)):
        copy = pickle.loads(pickle.dumps(store))
        np.testing.assert_array_equal(copy.base(3), store.base(3))
        np.testing.assert_array_equal(copy.view(5), store.view(5))


def test_a_broken_image_is_named(records):
    records[2].image.write_bytes(png(2)[:100])
    with pytest.raises(ImageError, match=r"^benign/2\.png: is damaged or truncated"):
        open_store(records)


def test_a_missing_image_is_named(records):
    records[4].image.unlink()
    with pytest.raises(ImageError, match=r"^benign/4\.png: cannot be read \(No such file"):
        open_store(records)


@pytest.mark.parametrize("cache_gib", [1.0, 0.0])
def test_broken_images_are_left_out_and_listed(records, cache_gib, caplog):
    records[0].image.unlink()
    records[3].image.write_bytes(b"not an image")
    store = open_store(records, cache_gib=cache_gib, on_bad="skip")
    assert [name for name, _ in store.skipped] == ["benign/0.png", "benign/3.png"]
    assert store.skipped[1][1] == "is not a PNG, JPEG, BMP, TIFF or DICOM image"
    assert caplog.messages[0].startswith("2 images cannot be read: benign/0.png cannot be read")
    assert "benign/3.png is not a PNG" in caplog.messages[0]
    assert store.records == [records[row] for row in (1, 2, 4, 5)]
    assert len(store) == len(store.sha256) == 4
    np.testing.assert_array_equal(store.view(3), pil_square(records[5].image, 24))


def test_no_readable_image_is_an_error(records):
    for record in records:
        record.image.write_bytes(b"")
    with pytest.raises(UserError, match=r"none of the images can be read; the first: benign/0"):
        open_store(records, on_bad="skip")


def test_no_image_at_all_is_an_empty_store():
    store = open_store([])
    assert len(store) == 0
    assert store.skipped == []


@pytest.mark.parametrize("change", ["content", "removal"])
def test_a_file_that_changes_while_streaming_is_named(records, change):
    store = open_store(records, cache_gib=0)
    store.base(1)
    if change == "content":
        records[1].image.write_bytes(png(100))
        reason = "the file changed while it was in use"
    else:
        records[1].image.unlink()
        reason = "cannot be read"
    for read in (store.base, store.view):
        with pytest.raises(UserError, match=rf"^benign/1\.png: {reason}"):
            read(1)


def test_the_real_set_fits_in_memory_with_its_colors(busi_root):
    records = busi.read_records(busi_root)[::20]
    store = open_store(records)
    assert store.cached
    assert len(store) == 39
    assert {store.base(row).shape[2] for row in range(len(store))} <= {1, 3}
