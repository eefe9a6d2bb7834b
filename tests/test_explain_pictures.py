"""Which images are drawn, how maps are laid over them; what is taken out of images."""

import cv2
import numpy as np
import pytest
from PIL import Image

from jaxbusi.data.overlays import find_marks
from jaxbusi.data.phantoms import draw_phantom
from jaxbusi.explain import occlusion, pictures, randomised


def test_the_surest_of_each_class_and_the_surest_mistakes_are_drawn():
    truth = np.array([0, 0, 1, 2, 0, 1])
    sure = [0.6, 0.9, 0.7, 0.8, 0.95, 0.5]
    answer = [0, 0, 1, 2, 1, 2]  # the last two are wrong
    rows = np.full((6, 3), 0.0)
    rows[np.arange(6), answer] = sure
    rows += (1 - rows.sum(1, keepdims=True)) * (rows == 0) / 2
    assert pictures.choose(truth, rows, 6) == [1, 2, 3, 0, 4, 5]
    assert pictures.choose(truth, rows, 4) == [1, 2, 4, 5]
    assert pictures.choose(truth, rows, 3) == [1, 2, 4]
    assert pictures.choose(truth, rows, 99) == [1, 2, 3, 0, 4, 5]
    assert pictures.choose(None, rows, 2) == [0, 1]
    assert pictures.choose(truth, rows, 0) == []


def test_an_even_map_is_even_and_a_peak_lies_where_it_is():
    even = pictures.overlay(np.ones((7, 7), np.float32), (30, 50))
    assert even.shape == (30, 50, 4)
    assert np.ptp(even, axis=(0, 1)).max() < 1e-6
    assert even[0, 0, 3] == pytest.approx(0.8 / 3)
    peak = np.zeros((7, 7), np.float32)
    peak[1, 5] = 3
    alpha = pictures.overlay(peak, (70, 140))[..., 3]
    assert alpha[14:16, 108:112].min() == pytest.approx(0.8)
    assert alpha[:, :60].max() == 0
    assert pictures.overlay(np.zeros((7, 7), np.float32), (9, 9))[..., 3].max() == 0


def test_a_picture_of_any_branches(tmp_path):
    image = np.zeros((40, 60, 3), np.uint8)
    lesion = np.zeros((40, 60), bool)
    lesion[10:20, 20:40] = True
    one = pictures.Explained(
        "乳 $x$.png", image, lesion, 1, np.array([0.1, 0.7, 0.2]), np.full(3, 1 / 3),
        {"vit": np.array([-0.2, 0.4, -0.1])}, {"rollout": np.ones((2, 2), np.float32)},
    )  # fmt: skip
    pictures.draw(one, tmp_path / "one.png")
    with Image.open(tmp_path / "one.png") as drawn:
        assert drawn.width > 400
    assert one.title() == "answer: malignant, 70 %; truth: malignant"
    assert "ViT (global) +40 points. Maps: attention rollout, ViT." in one.alt()


def test_marks_are_found_and_taken_away():
    gray, mask = draw_phantom(np.random.default_rng(5), 0, 400)
    image = np.repeat(gray[:, :, None] // 2, 3, axis=2)
    assert not find_marks(image).any()
    assert set(occlusion.occluded(image, None)) == {"borders"}
    marked = image.copy()
    cv2.putText(marked, "RT 8", (200, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 0), 1)
    letters = (marked != image).any(2)
    found = find_marks(marked)
    assert found[letters].mean() > 0.9
    assert found.mean() < 0.03
    without = occlusion.occluded(marked, mask)
    assert set(without) == set(occlusion.KINDS)
    assert without["marks"][letters].max() < 200 < marked[letters].max()
    np.testing.assert_array_equal(without["marks"][~found], marked[~found])
    elsewhere = (without["elsewhere"] != marked).any(2)
    assert not (elsewhere & found).any()
    assert elsewhere.any()
    assert (without["lesion"] != marked).any(2)[mask].mean() > 0.5
    np.testing.assert_array_equal(without["lesion"][~mask], marked[~mask])


def test_borders_are_replaced_by_what_lies_within():
    image = np.zeros((50, 100, 3), np.uint8)
    image[:3] = image[:, -6:] = 255
    image[3:6] = 7
    found = occlusion.without_borders(image)
    assert found.max() == 7
    assert (found[:3, :94] == 7).all()


def test_changes_are_averaged_over_the_images_that_have_the_kind():
    nothing = np.full(3, np.nan)
    changes = dict.fromkeys(occlusion.KINDS, nothing) | {"marks": np.array([-0.4, 0.2, np.nan])}
    changed = dict.fromkeys(occlusion.KINDS, nothing) | {"marks": np.array([1, 0, np.nan])}
    found = occlusion.summarize(changes, changed, np.array([0, 1, 1]), ["a", "b", "c"], seed=0)
    assert found["lesion"] == {}
    assert found["marks"]["all"]["count"] == 2
    assert found["marks"]["all"]["change"]["value"] == pytest.approx(-0.1)
    assert found["marks"]["all"]["size"]["value"] == pytest.approx(0.3)
    assert found["marks"]["benign"]["other_answer"]["value"] == 1
    assert found["marks"]["benign"]["other_answer"]["exact"]


def test_ranks_of_maps():
    one = np.arange(4.0).reshape(1, 2, 2)
    maps = np.concatenate([one, one, one * 0 + 1])
    others = np.concatenate([np.exp(one), -one, one])
    np.testing.assert_allclose(randomised.rank_correlations(maps, others), [1, -1, np.nan])
