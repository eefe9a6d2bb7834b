"""Maps against masks, where the answer is known by construction."""

import cv2
import numpy as np
import pytest

from jaxbusi.explain import agreement

LABEL = np.array([0, 0, 1])
UNITS = ["x", "y", "z"]


def lesions():
    """Lesions of 64 × 64 of 256 pixels: upper left, middle, and none."""
    masks = np.zeros((2, 512, 512), bool)
    masks[0, :128, :128] = True
    masks[1, 192:320, 192:320] = True
    return np.stack([agreement.square(mask) for mask in (*masks, None)])


def maps_at(*points, side=8):
    maps = np.zeros((len(points), side, side), np.float32)
    for one, point in zip(maps, points, strict=True):
        one[point] = 2.0
    return maps


def test_the_share_inside_is_that_of_the_enlarged_map():
    rng = np.random.default_rng(0)
    maps = rng.random((3, 7, 7), np.float32)
    found = agreement.agree(maps, lesions(), UNITS)
    for row, (one, lesion) in enumerate(zip(maps[:2], lesions()[:2], strict=True)):
        large = cv2.resize(one, (256, 256), interpolation=cv2.INTER_LINEAR)
        assert found["energy"][row] == pytest.approx((large * lesion).sum() / large.sum(), rel=1e-4)
    assert found["area"][:2].tolist() == [1 / 16, 1 / 16]
    assert all(np.isnan(scores[2]) for scores in found.values())  # no lesion


def test_a_map_that_shows_the_lesion_and_one_that_does_not():
    found = agreement.agree(maps_at((0, 0), (0, 0), (4, 4)), lesions(), UNITS)
    assert found["pointing"][:2].tolist() == [1, 0]
    assert found["energy"][0] > 0.9
    assert found["energy"][1] == 0
    # The lesion at the upper left is met by the second map, not by the third; the middle by it.
    assert found["pointing_of_others"][:2].tolist() == [0.5, 0.5]
    alike = agreement.agree(maps_at((0, 0), (0, 0), (4, 4)), lesions(), ["x", "x", "z"])
    assert alike["pointing_of_others"][:2].tolist() == [0, 1]


def test_an_even_map_and_one_that_is_zero():
    maps = np.stack([np.ones((8, 8)), np.zeros((8, 8)), np.ones((8, 8))]).astype(np.float32)
    found = agreement.agree(maps, lesions(), UNITS)
    assert found["energy"][0] == pytest.approx(found["area"][0])
    assert np.isnan(found["energy"][1])
    assert np.isnan(found["pointing"][1])


def test_means_of_the_classes():
    agreed = {"a map": agreement.agree(maps_at((0, 0), (0, 0), (4, 4)), lesions(), UNITS)}
    found = agreement.summarize(agreed, LABEL, UNITS, seed=0)["a map"]
    assert set(found) == {"all", "benign"}  # the malignant image has no mask
    assert found["benign"]["count"] == 2
    assert found["benign"]["pointing"]["value"] == 0.5
    assert found["benign"]["pointing_gain"]["value"] == pytest.approx(0.5 - 1 / 16)
    assert found["benign"]["pointing_gain_on_others"]["value"] == 0
    assert found["all"]["area"]["value"] == pytest.approx(1 / 16)
