"""The paper's augmentation (section 2.2): one image and one random generator to one training image.

The steps and their distributions are torchvision's, in the paper's order:

    Resize(256, 256) -> RandomResizedCrop(224) -> RandomHorizontalFlip -> RandomVerticalFlip
    -> RandomRotation(15) -> ColorJitter(.2, .2, .2, .1) -> RandomAffine(0, translate=(.1, .1))

The arithmetic is not torchvision's. Crop, flips and rotation are one affine resampling; brightness
and contrast are look-up tables; the translation, whole pixels in torchvision too, is a copy. A
grayscale image stays in one channel until the end: saturation and hue leave it as it is. Every
pixel comes from the same place to half a pixel, its colour is the same to two levels of 255, and
all of it takes a small part of the time (`scripts/benchmark_input.py`).

torchvision's crop is antialiased, the one resampling is not. At the paper's sizes a crop shrinks by
1.14 at most; on BUSI the two then differ by 1.1 levels on average, torchvision's own choices of
interpolation for the rotation (nearest, bilinear) by 2.1.
"""

import dataclasses
import math

import cv2
import numpy as np

from jaxbusi.errors import UserError

# OpenCV would split each call over threads of its own. Images of 224² are too small to gain from
# that, and the pipeline already works on as many batches at a time as there are cores.
cv2.setNumThreads(1)

BRIGHTNESS, CONTRAST, SATURATION, HUE = range(4)

_CROP_ATTEMPTS = 10

# Bilinear sampling looks at two pixels by two: beyond this factor a crop would lose some of its
# pixels altogether, and is averaged down first. The paper's sizes stay below it.
_LARGEST_SHRINK = 1.5


@dataclasses.dataclass(frozen=True)
class AugmentSettings:
    """What is drawn, and from which range; the defaults are the paper's.

    Attributes:
      resize: side of the square that images are resized to before anything else, in pixels.
      crop: side of the result, in pixels.
      scale: the crop's share of the area, drawn uniformly from this range.
      ratio: the crop's width / height, its logarithm drawn uniformly from this range.
      horizontal_flip: probability.
      vertical_flip: probability.
      rotation: degrees; the angle is uniform in ±rotation.
      brightness: the factor is uniform in 1 ± brightness; so are contrast's and saturation's.
      contrast: see brightness.
      saturation: see brightness.
      hue: the shift is uniform in ±hue, as a share of the full circle; at most 0.5.
      translation: the shift along each axis is uniform in ±translation of the side.

    Raises:
      UserError: a value is out of its range.
    """

    resize: int = 256
    crop: int = 224
    scale: tuple[float, float] = (0.08, 1.0)
    ratio: tuple[float, float] = (3 / 4, 4 / 3)
    horizontal_flip: float = 0.5
    vertical_flip: float = 0.5
    rotation: float = 15.0
    brightness: float = 0.2
    contrast: float = 0.2
    saturation: float = 0.2
    hue: float = 0.1
    translation: float = 0.1

    def __post_init__(self) -> None:
        def require(name: str, holds: bool, range_: str) -> None:
            if not holds:
                raise UserError(
                    f"config.data.augment.{name}={getattr(self, name)}: must be {range_}"
                )

        for name in ("resize", "crop"):
            require(name, getattr(self, name) > 0, "positive")
        require("scale", 0 < self.scale[0] <= self.scale[1] <= 1, "(low, high) in (0, 1]")
        require("ratio", 0 < self.ratio[0] <= self.ratio[1], "(low, high), positive")
        for name in ("horizontal_flip", "vertical_flip", "translation"):
            require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        require("rotation", 0 <= self.rotation <= 180, "between 0 and 180 degrees")
        for name in ("brightness", "contrast", "saturation"):
            require(name, getattr(self, name) >= 0, "0 or more")
        require("hue", 0 <= self.hue <= 0.5, "between 0 and 0.5")


@dataclasses.dataclass(frozen=True)
class Draw:
    """All random numbers of one augmented copy.

    Attributes:
      top, left, height, width: the crop, in pixels of the resized image.
      flip_horizontal, flip_vertical: whether to.
      angle: rotation in degrees, counter-clockwise as PIL's and torchvision's.
      factors: brightness, contrast, saturation (1 is unchanged) and the hue shift (0 is unchanged).
      order: the order in which the four colour steps are applied, as indices into `factors`.
      shift: translation (right, down) in pixels of the result.
    """

    top: int
    left: int
    height: int
    width: int
    flip_horizontal: bool
    flip_vertical: bool
    angle: float
    factors: tuple[float, float, float, float]
    order: tuple[int, ...]
    shift: tuple[int, int]


def draw(rng: np.random.Generator, settings: AugmentSettings) -> Draw:
    """Draws one copy's random numbers, distributed as torchvision's transforms draw theirs."""
    s = settings
    top, left, height, width = _draw_crop(rng, s)
    flips = rng.random(2)
    angle = rng.uniform(-s.rotation, s.rotation)
    brightness, contrast, saturation = (
        rng.uniform(max(0.0, 1 - spread), 1 + spread)
        for spread in (s.brightness, s.contrast, s.saturation)
    )
    hue = rng.uniform(-s.hue, s.hue)
    order = rng.permutation(4)
    reach = s.translation * s.crop
    dx, dy = rng.uniform(-reach, reach, size=2)
    return Draw(
        top=top,
        left=left,
        height=height,
        width=width,
        flip_horizontal=bool(flips[0] < s.horizontal_flip),
        flip_vertical=bool(flips[1] < s.vertical_flip),
        angle=angle,
        factors=(brightness, contrast, saturation, hue),
        order=tuple(order.tolist()),
        shift=(round(dx), round(dy)),
    )


def _draw_crop(rng: np.random.Generator, s: AugmentSettings) -> tuple[int, int, int, int]:
    """RandomResizedCrop.get_params on a square of side `resize`: top, left, height, width."""
    side = s.resize
    low, high = math.log(s.ratio[0]), math.log(s.ratio[1])
    for _ in range(_CROP_ATTEMPTS):
        area = side * side * rng.uniform(*s.scale)
        ratio = math.exp(rng.uniform(low, high))
        width = round(math.sqrt(area * ratio))
        height = round(math.sqrt(area / ratio))
        if 0 < width <= side and 0 < height <= side:
            top = int(rng.integers(0, side - height + 1))
            left = int(rng.integers(0, side - width + 1))
            return top, left, height, width
    # The largest central crop whose ratio is allowed.
    width = height = side
    if s.ratio[0] > 1:
        height = round(side / s.ratio[0])
    elif s.ratio[1] < 1:
        width = round(side * s.ratio[1])
    return (side - height) // 2, (side - width) // 2, height, width


def augment(
    image: np.ndarray,
    rng: np.random.Generator,
    settings: AugmentSettings,
    out: np.ndarray | None = None,
) -> np.ndarray:
    """`apply` with freshly drawn numbers."""
    return apply(image, draw(rng, settings), settings, out)


def apply(
    image: np.ndarray, draw: Draw, settings: AugmentSettings, out: np.ndarray | None = None
) -> np.ndarray:
    """One augmented copy.

    Args:
      image: uint8[resize, resize, C], C = 1 (grayscale) or 3 (RGB).
      draw: the copy's random numbers.
      settings: those that `draw` was made with.
      out: uint8[crop, crop, 3] to write to, such as a row of a batch; None makes a new array.

    Returns:
      uint8[crop, crop, 3]. Black where there is no image.
    """
    if out is None:
        out = np.empty((settings.crop, settings.crop, 3), np.uint8)
    warped = _warp(image, draw, settings.crop)
    colored = _jitter_gray(warped, draw) if warped.ndim == 2 else _jitter_color(warped, draw)
    _place(colored, draw.shift, out)
    return out


def _warp(image: np.ndarray, draw: Draw, side: int) -> np.ndarray:
    """Crop, flips and rotation in one bilinear resampling: [side, side] or [side, side, 3]."""
    # Cut first, so that what the rotation turns in from outside the crop is not the image's rest.
    view = image[draw.top : draw.top + draw.height, draw.left : draw.left + draw.width]
    if max(draw.height, draw.width) > _LARGEST_SHRINK * side:
        size = (min(draw.width, side), min(draw.height, side))
        view = cv2.resize(view, size, interpolation=cv2.INTER_AREA)
    color = image.shape[2:] == (3,)
    height, width = view.shape[:2]
    warped = cv2.warpAffine(
        # OpenCV takes half the time for four channels that it takes for three.
        cv2.cvtColor(view, cv2.COLOR_RGB2RGBA) if color else view,
        _inverse_map(draw, height, width, side),
        (side, side),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        # The half pixel around the outermost pixel centres belongs to the image: it is repeated,
        # as in torchvision, not blended with black. What lies further outside is blackened below.
        borderMode=cv2.BORDER_REPLICATE,
    )
    if color:
        warped = cv2.cvtColor(warped, cv2.COLOR_RGBA2RGB)
    if draw.angle == 0:
        return warped
    return cv2.bitwise_and(warped, warped, mask=_rotated_square(draw.angle, side))


def _inverse_map(draw: Draw, height: int, width: int, side: int) -> np.ndarray:
    """The affine map from a pixel of the rotated image to its place in the crop: float64[2, 3].

    Coordinates are (x, y) with pixel centres at whole numbers, as OpenCV has them; torchvision's
    steps, which this composes backwards, have them at halves.
    """
    cos, sin = math.cos(math.radians(draw.angle)), math.sin(math.radians(draw.angle))
    center = side / 2
    first = 0.5 - center  # the first pixel's centre, seen from the centre of rotation
    rows = []
    for flip, length, cos_x, cos_y in (
        (draw.flip_horizontal, width, cos, -sin),
        (draw.flip_vertical, height, sin, cos),
    ):
        scale = (-length if flip else length) / side
        origin = length if flip else 0
        offset = origin + scale * (center + first * (cos_x + cos_y)) - 0.5
        rows.append((scale * cos_x, scale * cos_y, offset))
    return np.array(rows)


def _rotated_square(angle: float, side: int) -> np.ndarray:
    """Which pixels of a rotated square image show the image: uint8[side, side], 255 or 0."""
    bits = 8  # fractional bits of the fixed-point coordinates that OpenCV takes
    # It also paints the pixels that the outline passes through: half a pixel less on each side
    # leaves those whose centre is inside.
    half = (side / 2 - 0.5) * 2**bits
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    a, b = half * (cos + sin), half * (cos - sin)
    corners = [(-a, -b), (b, -a), (a, b), (-b, a)]
    mask = np.zeros((side, side), np.uint8)
    cv2.fillConvexPoly(mask, np.rint(np.add(corners, half)).astype(np.int32), 255, shift=bits)
    return mask


def _jitter_gray(image: np.ndarray, draw: Draw) -> np.ndarray:
    """ColorJitter of uint8[H, W], as one look-up table."""
    table = np.arange(256, dtype=np.uint8)
    for step in draw.order:
        if step == BRIGHTNESS:
            table = _blend(0, table, draw.factors[BRIGHTNESS])
        elif step == CONTRAST:
            # The mean of the image as it is by now, black corners included.
            mean = int(cv2.mean(cv2.LUT(image, table))[0] + 0.5)
            table = _blend(mean, table, draw.factors[CONTRAST])
    return cv2.LUT(image, table)


def _jitter_color(image: np.ndarray, draw: Draw) -> np.ndarray:
    """ColorJitter of uint8[H, W, 3]."""
    levels = np.arange(256, dtype=np.uint8)
    for step in draw.order:
        factor = draw.factors[step]
        if step == BRIGHTNESS:
            image = cv2.LUT(image, _blend(0, levels, factor))
        elif step == CONTRAST:
            mean = int(cv2.mean(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY))[0] + 0.5)
            image = cv2.LUT(image, _blend(mean, levels, factor))
        elif step == SATURATION:
            image = _adjust_saturation(image, factor)
        else:
            image = _adjust_hue(image, factor)
    return image


def _blend(base: int, table: np.ndarray, factor: float) -> np.ndarray:
    """PIL's ImageEnhance on every level: base + factor · (level - base), cut off to 0..255.

    Args:
      base: the level that a factor of 0 gives: 0 for brightness, the mean for contrast.
      table: uint8[N] levels.
      factor: 1 leaves the levels as they are.

    Returns:
      uint8[N], exactly as PIL computes them: float32, truncated.
    """
    change = np.float32(factor) * (table.astype(np.float32) - np.float32(base))
    return np.clip(np.float32(base) + change, 0, 255).astype(np.uint8)


def _adjust_saturation(image: np.ndarray, factor: float) -> np.ndarray:
    """Blends with the image's own grayscale (ITU-R 601 luma)."""
    gray = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), cv2.COLOR_GRAY2RGB)
    # PIL truncates and OpenCV rounds: just under half a level less makes them agree.
    return cv2.addWeighted(image, factor, gray, 1 - factor, -0.49)


def _adjust_hue(image: np.ndarray, shift: float) -> np.ndarray:
    """Turns the hue by `shift` of the full circle.

    In float32, as torchvision does for tensors. Its PIL variant keeps hue and saturation in 8 bits,
    and so moves vivid colours by up to 15 levels more or less than asked.
    """
    rgb = image.astype(np.float32)
    hsv = cv2.cvtColor(rgb, cv2.COLOR_RGB2HSV)
    # OpenCV takes degrees above 360 for what they are, but not negative ones.
    cv2.add(hsv, np.array([360 * (shift % 1), 0, 0, 0]), dst=hsv)
    return cv2.convertScaleAbs(cv2.cvtColor(hsv, cv2.COLOR_HSV2RGB, dst=rgb))


def _place(image: np.ndarray, shift: tuple[int, int], out: np.ndarray) -> None:
    """Copies uint8[H, W] or [H, W, 3] to uint8[H, W, 3], right and down by whole pixels."""
    dx, dy = shift
    height, width = out.shape[:2]
    target = out[max(dy, 0) : height + min(dy, 0), max(dx, 0) : width + min(dx, 0)]
    source = image[max(-dy, 0) : height - max(dy, 0), max(-dx, 0) : width - max(dx, 0)]
    out[:] = 0
    if image.ndim == 3:
        target[:] = source
    elif target.size:  # nothing is left of a shift by the whole side
        cv2.cvtColor(source, cv2.COLOR_GRAY2RGB, dst=target)
