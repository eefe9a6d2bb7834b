"""What one image of a set is, wherever its bytes are stored."""

import dataclasses
from typing import Protocol

CLASSES: tuple[str, ...] = ("benign", "malignant", "normal")
"""Class names; their positions are the labels and the order of every probability vector."""


class Blob(Protocol):
    """Stored bytes: a `pathlib.Path`, or a field of an array_record entry."""

    def read_bytes(self) -> bytes:
        """Returns the whole content."""
        ...


@dataclasses.dataclass(frozen=True)
class Record:
    """One labelled image and its lesion masks.

    Attributes:
      name: the image's path relative to the set's root, with forward slashes; unique in a set.
      label: index into `CLASSES`.
      image: the encoded image file.
      masks: the encoded mask files, in name order; empty where the set has none.
      patient: images of one set with the same are of one patient; empty where it is not known.
    """

    name: str
    label: int
    image: Blob
    masks: tuple[Blob, ...] = ()
    patient: str = ""
