import cv2
import numpy as np
import pytest

from jaxbusi.data.overlays import find_overlay
from jaxbusi.data.phantoms import draw_phantom


@pytest.fixture
def image():
    gray, _ = draw_phantom(np.random.default_rng(5), 0, 400)
    return np.repeat(gray[:, :, None] // 2, 3, axis=2)


def overlay(image):
    return find_overlay(image, cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))


@pytest.mark.parametrize("label", range(3))
def test_tissue_has_no_marks_and_no_colour(label):
    for seed in range(5):
        gray, _ = draw_phantom(np.random.default_rng(seed), label, 400)
        found = overlay(np.repeat(gray[:, :, None], 3, axis=2))
        assert (found.marks, found.colour) == (0, 0.0)


def test_text_and_the_crosses_of_calipers_are_marks(image):
    text, cross = image.copy(), image.copy()
    cv2.putText(text, "RT 8", (200, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    cv2.drawMarker(cross, (150, 150), (255, 255, 255), cv2.MARKER_CROSS, 14, 2)
    assert overlay(text).marks > 0
    assert overlay(cross).marks > 0
    assert overlay(text).colour == 0


def test_the_mark_of_the_probe_and_a_bright_layer_do_not_count(image):
    cv2.rectangle(image, (3, 3), (11, 11), (255, 255, 255), 1)
    cv2.line(image, (0, 200), (image.shape[1], 204), (255, 255, 255), 2)
    assert overlay(image).marks == 0


def test_a_mark_in_a_very_large_image_is_found(image):
    cv2.putText(image, "RT 8", (200, 250), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1)
    large = cv2.resize(image, None, fx=5, fy=5, interpolation=cv2.INTER_CUBIC)
    assert overlay(large).marks > 0


def test_a_colour_bar_is_colour_and_the_tint_of_jpeg_is_not(image):
    bar = image.copy()
    bar[50:100, -8:] = (200, 120, 0)
    height, width = image.shape[:2]
    assert overlay(bar).colour == pytest.approx(400 / (height * width))
    _, data = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 60])
    assert overlay(cv2.imdecode(data, cv2.IMREAD_COLOR)).colour == 0


def test_the_smallest_image():
    found = overlay(np.zeros((1, 1, 3), np.uint8))
    assert (found.marks, found.colour) == (0, 0.0)
