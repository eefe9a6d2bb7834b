"""stub."""

import dataclasses
import numpy as np


@dataclasses.dataclass(frozen=True)
class Overlay:
    colour: bool = False
    marks: bool = False


def find_overlay(image: np.ndarray, gray: np.ndarray) -> Overlay:
    return Overlay()
