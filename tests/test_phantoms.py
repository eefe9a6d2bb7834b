"""Synthetic sets: layout, determinism, and that the classes differ as the lexicon says."""

from pathlib import Path

import cv2
import numpy as np
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from jaxbusi.data import busi, images, phantoms, sonography
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError


def contents(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*.*")}


@pytest.fixture(scope="module")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("phantoms") / "set"
    phantoms.write_phantoms(root, count=12, seed=3, size=96)
    return root


def test_a_set_reads_as_busi(small: Path):
    records = busi.read_records(small)
    assert [sum(r.label == label for r in records) for label in range(3)] == [7, 3, 2]
    assert records[0].name == "benign/benign (1).png"
    for record in records:
        image = images.decode_image(record.image.read_bytes(), record.name)
        masks = [mask.read_bytes() for mask in record.masks]
        assert len(masks) == 1
        lesion = images.lesion_mask(masks, record.name, image.shape[:2])
        assert lesion.any() == (CLASSES[record.label] != "normal")
        assert 86 <= image.shape[1] <= 106
        assert 67 <= image.shape[0] <= 96
        assert image.std() > 10


def test_counts_follow_busi():
    assert phantoms.class_counts(780) == (437, 210, 133)
    assert phantoms.class_counts(240) == (134, 65, 41)
    assert phantoms.class_counts(3) == (1, 1, 1)
    for count in range(3, 40):
        assert sum(phantoms.class_counts(count)) == count
        assert min(phantoms.class_counts(count)) >= 1


def test_the_seed_decides_every_byte(small: Path, tmp_path: Path):
    phantoms.write_phantoms(tmp_path / "again", count=12, seed=3, size=96)
    assert contents(tmp_path / "again") == contents(small)
    phantoms.write_phantoms(tmp_path / "more", count=16, seed=3, size=96)
    more = contents(tmp_path / "more")
    shared = [name for name in contents(small) if name.endswith(".png")]
    assert all(more[name] == contents(small)[name] for name in shared)
    phantoms.write_phantoms(tmp_path / "other", count=3, seed=4, size=96)
    other = contents(tmp_path / "other")
    assert other["benign/benign (1).png"] != more["benign/benign (1).png"]


def test_a_whole_set_is_kept_and_anything_else_refused(small: Path, tmp_path: Path):
    before = {p: p.stat().st_mtime_ns for p in small.rglob("*")}
    phantoms.write_phantoms(small, count=12, seed=3, size=96)
    assert {p: p.stat().st_mtime_ns for p in small.rglob("*")} == before
    with pytest.raises(UserError, match=r"holds something else than 12 phantoms of seed 4"):
        phantoms.write_phantoms(small, count=12, seed=4, size=96)
    (tmp_path / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match=r"holds something else"):
        phantoms.write_phantoms(tmp_path, count=3, seed=0, size=64)
    assert [p.name for p in tmp_path.iterdir()] == ["mine.txt"]
    empty = tmp_path / "empty"
    empty.mkdir()
    phantoms.write_phantoms(empty, count=3, seed=0, size=64)
    next(empty.glob("normal/*_mask.png")).unlink()
    with pytest.raises(UserError, match=r"has lost some of its phantoms; delete it"):
        phantoms.write_phantoms(empty, count=3, seed=0, size=64)
    with pytest.raises(UserError, match=r"cannot write phantoms to .*Not a directory"):
        phantoms.write_phantoms(tmp_path / "mine.txt" / "x", count=3, seed=0, size=64)
    with pytest.raises(ValueError, match="count >= 3"):
        phantoms.write_phantoms(tmp_path / "two", count=2, seed=0)


def test_an_interrupted_set_is_no_set(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    draw, drawn = phantoms.draw_phantom, []

    def interrupted(*arguments):
        if len(drawn) == 4:
            raise KeyboardInterrupt
        drawn.append(1)
        return draw(*arguments)

    monkeypatch.setattr(phantoms, "draw_phantom", interrupted)
    with pytest.raises(KeyboardInterrupt):
        phantoms.write_phantoms(tmp_path / "set", count=6, seed=0, size=64)
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    phantoms.write_phantoms(tmp_path / "set", count=6, seed=0, size=64)
    assert len(busi.read_folder(tmp_path / "set")) == 6


@pytest.fixture(scope="module")
def drawn() -> list[tuple[int, np.ndarray, np.ndarray]]:
    """Label, image and mask of forty phantoms of each class."""
    return [
        (label, *phantoms.draw_phantom(np.random.default_rng([1, label, i]), label, 128))
        for label in range(3)
        for i in range(40)
    ]


def box(mask: np.ndarray) -> tuple[int, int, int, int]:
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return rows[0], rows[-1] + 1, columns[0], columns[-1] + 1


def measures(label: int, drawn: list[tuple[int, np.ndarray, np.ndarray]]) -> dict[str, np.ndarray]:
    """Height to width, roundness of the margin, contrast of the lesion and of what is below it."""
    found: dict[str, list[float]] = {"aspect": [], "roundness": [], "inside": [], "below": []}
    for _, image, mask in (entry for entry in drawn if entry[0] == label):
        top, bottom, left, right = box(mask)
        found["aspect"].append((bottom - top) / (right - left))
        contours, _ = cv2.findContours(
            mask.astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_NONE
        )
        outline = max(contours, key=cv2.contourArea)
        area = cv2.contourArea(outline)
        found["roundness"].append(4 * np.pi * area / cv2.arcLength(outline, True) ** 2)
        gray = image.astype(float)
        beside = np.ones(image.shape[1], bool)
        beside[max(left - 3, 0) : right + 3] = False
        quarter = (right - left) // 4
        under = slice(bottom + 3, bottom + 20), slice(left + quarter, right - quarter)
        found["inside"].append(gray[mask].mean() - gray[top:bottom, beside].mean())
        found["below"].append(gray[under].mean() - gray[under[0]][:, beside].mean())
    return {key: np.array(values) for key, values in found.items()}


def test_classes_differ_as_in_the_lexicon(drawn: list[tuple[int, np.ndarray, np.ndarray]]):
    benign, malignant = measures(0, drawn), measures(1, drawn)
    assert (benign["aspect"] < 1).all()  # Wider than tall.
    assert np.median(malignant["aspect"]) > 1.05
    assert (benign["inside"] < 0).mean() > 0.95  # Hypoechoic, both.
    assert (malignant["inside"] < 0).mean() > 0.95
    assert np.median(benign["below"]) > 8  # Enhancement, shadow.
    assert np.median(malignant["below"]) < -15
    assert np.quantile(benign["roundness"], 0.1) > np.quantile(malignant["roundness"], 0.9)
    for label, _, mask in drawn:
        assert mask.any() == (label < 2)
        if label < 2:
            assert not mask[-1].any()  # There is room for what lies below.
            assert 0.01 < mask.mean() < 0.35


def test_brightness_alone_does_not_give_the_class_away(
    drawn: list[tuple[int, np.ndarray, np.ndarray]],
):
    """Forty of each class: chance is a third."""
    features = [(image.mean(), image.std(), *image.shape) for _, image, _ in drawn]
    model = make_pipeline(StandardScaler(), LogisticRegression())
    labels = [label for label, _, _ in drawn]
    assert cross_val_score(model, np.array(features), labels, cv=5).mean() < 0.6


def test_speckle_is_fully_developed_and_wider_than_deep():
    rng = np.random.default_rng(0)
    amplitude = np.full((400, 400), 3, np.float32)
    focus = np.zeros((400, 1), np.float32)
    parts = [sonography.quadrature(rng, amplitude, 1.0, 2.5, focus) for _ in range(2)]
    envelope = np.hypot(*parts)
    # Rayleigh: mean over standard deviation is sqrt(pi / (4 - pi)) = 1.913; power 2 x 3².
    assert abs(envelope.mean() / envelope.std() - 1.913) < 0.03
    assert abs((envelope**2).mean() / 18 - 1) < 0.03

    def correlation(shift: int, axis: int) -> float:
        return float((parts[0] * np.roll(parts[0], shift, axis)).mean() / (parts[0] ** 2).mean())

    # The autocorrelation of a Gaussian of deviation s at distance d is exp(-d² / 4 s²).
    assert abs(correlation(2, 0) - np.exp(-1)) < 0.03
    assert abs(correlation(5, 1) - np.exp(-1)) < 0.03
