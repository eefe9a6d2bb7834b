"""Rules that know nothing of tissue, against hand arithmetic."""

import numpy as np
import pytest

from jaxbusi.evaluation import baselines
from jaxbusi.evaluation.baselines import Seen, answers, row_of_pixels


def seen(label, size, pixels, prefix):
    names = [f"{prefix}{row}" for row in range(len(label))]
    return Seen(names, np.array(label), np.array(size, np.float64), np.array(pixels, np.float32))


def images(rng, count):
    return [rng.integers(0, 256, (40, 60, 3), np.uint8) for _ in range(count)]


def test_each_rule_gives_away_what_was_planted():
    rng = np.random.default_rng(0)
    label = np.array([0] * 30 + [1] * 20 + [2] * 10)
    sizes = np.array([(100, 200), (300, 300), (500, 400)])[label]
    train_images = images(rng, 60)
    train = seen(label, sizes, [row_of_pixels(image) for image in train_images], "a")
    # Copies of training images, brighter and of other sizes, with the sizes of another class.
    test_label = label[::3]
    brighter = [
        np.clip(train_images[row] * 0.8 + 20, 0, 255).astype(np.uint8) for row in range(0, 60, 3)
    ]
    swapped = np.array([(300, 300), (500, 400), (100, 200)])[test_label]
    test = seen(test_label, swapped, [row_of_pixels(image) for image in brighter], "b")
    found = answers(train, test)
    assert list(found) == list(baselines.NAMES)
    np.testing.assert_allclose(
        found["majority"].probabilities, np.tile([1 / 2, 1 / 3, 1 / 6], (20, 1))
    )
    np.testing.assert_array_equal(found["image_size"].predicted, (test_label + 1) % 3)
    np.testing.assert_array_equal(found["pixel_neighbour"].predicted, test_label)

    scored = baselines.summarize(train, test, {}, resamples=50)
    assert scored["majority"]["accuracy"].value == pytest.approx(0.5)
    assert scored["majority"]["recall"].value == pytest.approx(1 / 3)
    assert scored["image_size"]["accuracy"].value == 0.0
    assert scored["pixel_neighbour"]["accuracy"].value == 1.0


def test_a_row_of_pixels_has_no_brightness_and_no_contrast():
    image = images(np.random.default_rng(1), 1)[0] // 2
    row = row_of_pixels(image)
    assert row.shape == (64 * 64,)
    assert float(np.linalg.norm(row)) == pytest.approx(1, abs=1e-5)
    assert abs(float(row.mean())) < 1e-6
    assert float(row @ row_of_pixels(image + 50)) == pytest.approx(1, abs=1e-4)
    assert not row_of_pixels(np.full((5, 5, 3), 7, np.uint8)).any()


def test_a_class_that_training_lacks_gets_no_probability():
    rng = np.random.default_rng(2)
    rows = [row_of_pixels(image) for image in images(rng, 12)]
    train = seen([0, 2] * 6, rng.integers(100, 900, (12, 2)), rows, "a")
    test = seen([1, 2], [(5, 5), (6, 6)], rows[:2], "b")
    for predictions in answers(train, test).values():
        assert not predictions.probabilities[:, 1].any()
