"""What the numbers that the paper prints imply, and where they contradict each other.

Only the constants are taken from the paper ("ResNet + Transformer fusion for breast ultrasound
classification"); everything else is computed from them.
"""

import dataclasses
import math
from collections.abc import Iterator, Sequence

from jaxbusi.evaluation import intervals

IMAGES = {"benign": 487, "malignant": 210, "normal": 133}
"""Images of each class, as printed."""

TOTAL = 780
"""Images in all, as printed."""

BENIGN_SHARE = 62.4
"""Percent of benign images, as printed."""

PUBLIC_BENIGN = 437
"""Benign images in the public set (Al-Dhabyani et al., 2020)."""

COPIES = 5
"""Into which each image is expanded, in the test and in the validation set too."""

TEST_COPIES = 780
ACCURACY = 93.2
"""Percent right of the test copies, as printed."""

VALIDATION_IMAGES = 31
"""Of another hospital."""

VALIDATION = (80.6, 73.3, 74.2)
"""Percent right of the validation copies of each of the three classes, as printed."""

VALIDATION_COUNTS = ((60, 75), (33, 45), (26, 35))
"""Right and all copies of the same classes, as they are read: 15, 9 and 7 images."""

COMPARED = (90.0, 95.0)
"""Percent; accuracies that one split would have to tell apart."""

_PRINTED = 0.1  # Points; a share printed with one decimal may be rounded or cut off.


@dataclasses.dataclass(frozen=True)
class Implied:
    """What follows from the constants; shares in percent.

    Attributes:
      summed: images of the three classes together.
      benign_in_total: share of the printed benign images in the printed total.
      public_total: images in all with the public set's benign ones in place of the printed.
      public_share: of the benign ones among them.
      test_images: independent test images.
      whole: some whole number of test images gives the accuracy; else only copies do.
      of_copies: 95 % interval of the accuracy, were all copies independent.
      of_images: the same over the images.
      held: those of `COMPARED` that `of_images` holds.
      validation_copies: of the validation images.
      least, most: between which the accuracy over all validation copies lies, whatever the sizes
        of the classes: it is a mean of theirs.
      gap: points from `most` to the accuracy on the test copies.
      read: share of each class by `VALIDATION_COUNTS`.
      read_right, read_share: right copies of all classes, and their share.
      read_interval: 95 % interval of that share over the images.
      divisions: how many divisions of the validation images into classes give all three shares.
    """

    summed: int
    benign_in_total: float
    public_total: int
    public_share: float
    test_images: int
    whole: bool
    of_copies: tuple[float, float]
    of_images: tuple[float, float]
    held: tuple[float, ...]
    validation_copies: int
    least: float
    most: float
    gap: float
    read: tuple[float, ...]
    read_right: int
    read_share: float
    read_interval: tuple[float, float]
    divisions: int


def implied() -> Implied:
    """Computes it; takes a moment."""
    public_total = PUBLIC_BENIGN + IMAGES["malignant"] + IMAGES["normal"]
    test_images = TEST_COPIES // COPIES
    of_images = _interval(ACCURACY, test_images)
    copies = VALIDATION_IMAGES * COPIES
    right = sum(hits for hits, _ in VALIDATION_COUNTS)
    return Implied(
        summed=sum(IMAGES.values()),
        benign_in_total=100 * IMAGES["benign"] / TOTAL,
        public_total=public_total,
        public_share=100 * PUBLIC_BENIGN / public_total,
        test_images=test_images,
        whole=can_be(ACCURACY, test_images),
        of_copies=_interval(ACCURACY, TEST_COPIES),
        of_images=of_images,
        held=tuple(share for share in COMPARED if of_images[0] <= share <= of_images[1]),
        validation_copies=copies,
        least=min(VALIDATION),
        most=max(VALIDATION),
        gap=ACCURACY - max(VALIDATION),
        read=tuple(100 * hits / count for hits, count in VALIDATION_COUNTS),
        read_right=right,
        read_share=100 * right / copies,
        read_interval=_interval(100 * right / copies, VALIDATION_IMAGES),
        divisions=sum(1 for _ in divisions(VALIDATION, VALIDATION_IMAGES, COPIES)),
    )


def can_be(share: float, count: int) -> bool:
    """Whether some whole number of `count` is printed as `share`, percent with one decimal.

    Printed numbers may be rounded or cut off.
    """
    nearest = (math.floor(share * count / 100), math.ceil(share * count / 100))
    return any(abs(100 * hits / count - share) < _PRINTED - 1e-9 for hits in nearest)


def divisions(shares: Sequence[float], images: int, copies: int) -> Iterator[tuple[int, int, int]]:
    """Yields images of each of three classes, such that whole copies give the three shares."""
    for first in range(1, images - 1):
        for second in range(1, images - first):
            sizes = first, second, images - first - second
            if all(can_be(share, copies * size) for share, size in zip(shares, sizes, strict=True)):
                yield sizes


def _interval(share: float, trials: int) -> tuple[float, float]:
    """The exact 95 % interval of a share of independent trials, all in percent."""
    low, high = intervals.exact(share / 100, trials)
    return 100 * low, 100 * high
