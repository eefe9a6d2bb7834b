"""The images that are explained: of a run's test part, or files."""

import dataclasses
from collections.abc import Generator, Sequence

import numpy as np

from jaxbusi.data import inputs, splits
from jaxbusi.data.images import decode_image, lesion_mask, read_file, resize
from jaxbusi.data.parts import PartSet
from jaxbusi.data.records import Blob
from jaxbusi.data.threads import in_threads
from jaxbusi.errors import UserError


@dataclasses.dataclass(frozen=True)
class Subject:
    """One image.

    Attributes:
      name: as the run or the command names it.
      image: the encoded file; of files that are named, the place in the list of `find_inputs`, as a
        DICOM file has several where it has several frames.
      unit: subjects of one unit are no independent evidence: near-copies, images of a patient,
        frames of a clip.
      label: index into `CLASSES`; None where it is not known.
      masks: the encoded masks of its lesions; empty where there are none.
    """

    name: str
    image: Blob | bytes
    unit: str
    label: int | None = None
    masks: tuple[Blob, ...] = ()

    def read(self) -> np.ndarray:
        """Returns uint8[H, W, 3].

        Raises:
          ImageError: it cannot be read.
        """
        if isinstance(self.image, bytes):
            with inputs.Reader() as reader:
                return reader.read(self.image, self.name)
        return decode_image(read_file(self.image, self.name), self.name)

    def lesion(self, size: tuple[int, int]) -> np.ndarray | None:
        """Returns bool[H, W], where the lesions are; None where no mask marks any.

        Raises:
          ImageError: a mask cannot be read, or is not of the image's size.
        """
        data = [read_file(mask, f"a mask of {self.name}") for mask in self.masks]
        mask = lesion_mask(data, self.name, size)
        return mask if mask.any() else None


@dataclasses.dataclass(frozen=True)
class Batch:
    """Some subjects as the model sees them.

    Attributes:
      subjects: B or fewer.
      images: of each, uint8[H, W, 3].
      squares: uint8[B, s, s, 3], the images and black ones behind them.
    """

    subjects: Sequence[Subject]
    images: Sequence[np.ndarray]
    squares: np.ndarray


def of_part(parts: PartSet, name: str) -> list[Subject]:
    """The images of a part, each once.

    Raises:
      UserError: the run has no such part.
    """
    if name not in parts.parts:
        raise UserError(f"the run has no {name} part; name the images to explain as INPUT")
    part, units = parts[name], splits.units(parts.rows)
    rows, first = np.unique(part.samples.image, return_index=True)
    return [
        Subject(
            record.name,
            record.image,
            units.get(record.name, record.name),
            int(part.samples.label[sample]),
            record.masks,
        )
        for record, sample in zip((part.store.records[row] for row in rows), first, strict=True)
    ]


def of_inputs(given: Sequence[str]) -> list[Subject]:
    """The files that arguments lead to, as `inputs.find_inputs` takes them.

    The frames of a clip, which hardly differ, are one unit.
    """
    return [
        Subject(inputs.shown(image), image, inputs.shown(image.partition(b"\0")[0]))
        for image in inputs.find_inputs(given)
    ]


def truth_of(subjects: Sequence[Subject]) -> np.ndarray | None:
    """int64[N], the classes; None where one is not known."""
    labels = [subject.label for subject in subjects]
    return None if None in labels else np.array(labels, np.int64)


def batches(subjects: Sequence[Subject], size: int, side: int) -> Generator[Batch]:
    """Reads the subjects in order, ahead of their use.

    Args:
      subjects: the images.
      size: B, of every batch; the last is filled up with black squares.
      side: of the model's square input, pixels.

    Raises:
      ImageError: one cannot be read.
    """
    spans = [subjects[first : first + size] for first in range(0, len(subjects), size)]

    def read(span: Sequence[Subject]) -> Batch:
        images = [subject.read() for subject in span]
        squares = np.zeros((size, side, side, 3), np.uint8)
        for row, image in enumerate(images):
            squares[row] = resize(image, side)
        return Batch(span, images, squares)

    yield from in_threads(read, spans, ahead=3)
