"""Pixels to PNG files inside JSON."""

import base64

import cv2
import matplotlib
import numpy as np

from jaxbusi.explain.pictures import COLOURS, REACH, overlay

_LONGEST = 1024  # Side of the image that is sent back, pixels.
_LONGEST_MAP = 256  # Maps have some 14 by 14 values: what is between is smooth.
_STOPS = 9


def shown(image: np.ndarray) -> str:
    """An image as it is shown, smaller where it is large.

    Args:
      image: uint8[H, W, 3], RGB.
    """
    if max(image.shape) > _LONGEST:
        height, width = within(image.shape[:2], _LONGEST)
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return png(image)


def shown_map(values: np.ndarray, size: tuple[int, int]) -> dict[str, object]:
    """A map to be laid over an image of a size (H, W), stretched to it.

    Args:
      values: f32[g, g], 0 or more.
      size: only its proportions count.

    Returns:
      png, and whether it is empty.
    """
    coloured = overlay(values, within(size, _LONGEST_MAP))
    return {
        "png": png(np.round(coloured * 255).astype(np.uint8)),
        "empty": not bool(values.max() > 0),
    }


def scale() -> dict[str, object]:
    """The colours of the maps, from the least to the most, for a legend."""
    colours = matplotlib.colormaps[COLOURS](np.linspace(0, 1, _STOPS))
    return {
        "stops": [matplotlib.colors.to_hex(colour) for colour in colours],
        "ends": ["0", f"{REACH}× or more"],
        "label": "of what an even map has everywhere",
    }


def png(pixels: np.ndarray) -> str:
    """uint8[H, W, 3 or 4], RGB or RGBA, as a data URL."""
    order = cv2.COLOR_RGB2BGR if pixels.shape[2] == 3 else cv2.COLOR_RGBA2BGRA
    done, data = cv2.imencode(".png", cv2.cvtColor(pixels, order))
    if not done:
        raise RuntimeError(f"OpenCV cannot write a PNG of {pixels.shape}")
    return "data:image/png;base64," + base64.b64encode(data.tobytes()).decode()


def within(size: tuple[int, int], longest: int) -> tuple[int, int]:
    """H and W in the proportions of `size`, the longer of them `longest`."""
    factor = longest / max(size)
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))
