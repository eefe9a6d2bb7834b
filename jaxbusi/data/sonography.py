"""A simulated ultrasound picture of the breast: tissue, a lesion or none, and the scanner.

A picture is made as the machine makes it. A map of echo strength in decibels (layered tissue,
perhaps a lesion) scales complex Gaussian scatterers; the point spread of the beam blurs them, and
their magnitude is fully developed speckle (Rayleigh, before compounding smooths it). Echoes weaken
on their way down, more below what absorbs, less below fluid; the logarithm is shown as gray.

The classes differ as the BI-RADS lexicon says. Benign: smooth, oval, wider than tall, thin capsule,
brighter below. Malignant: spiculated or angular, taller than wide, echogenic halo, shadow below,
sometimes calcifications. Dark lobules of fat, bright fibres and shadows of ligaments appear in
every picture; gain, depth, dynamic range and size do not depend on the class.
"""

import dataclasses
import functools
import math

import cv2
import numpy as np

_TURNS = 2048


@dataclasses.dataclass(frozen=True)
class Grid:
    """The pixels of a picture, `mm` millimetres wide and tall each; depth runs down the rows."""

    height: int
    width: int
    mm: float

    @functools.cached_property
    def x(self) -> np.ndarray:
        """Across, mm, f32[1, W]."""
        return (np.arange(self.width, dtype=np.float32) * np.float32(self.mm))[None, :]

    @functools.cached_property
    def y(self) -> np.ndarray:
        """Depth, mm, f32[H, 1]."""
        return (np.arange(self.height, dtype=np.float32) * np.float32(self.mm))[:, None]

    def noise(self, rng: np.random.Generator, across: float, down: float) -> np.ndarray:
        """Smooth noise, f32[H, W] of unit variance, with a grain of so many millimetres."""
        rows = int(self.height * self.mm / down) + 6
        columns = int(self.width * self.mm / across) + 6
        coarse = rng.standard_normal((rows, columns), dtype=np.float32)
        shift = rng.uniform(1, 2, 2)
        to_coarse = np.array([[self.mm / across, 0, shift[0]], [0, self.mm / down, shift[1]]])
        flags = cv2.INTER_CUBIC | cv2.WARP_INVERSE_MAP
        fine = cv2.warpAffine(coarse, to_coarse, (self.width, self.height), flags=flags)
        return fine / (fine.std() + np.float32(1e-6))

    def fibres(
        self, rng: np.random.Generator, across: float, down: float, waves: float
    ) -> np.ndarray:
        """Thin curved lines, f32[H, W] in 0..1: where smooth noise crosses zero.

        Args:
          rng: draws the noise.
          across: grain along the lines, mm.
          down: grain from line to line, mm.
          waves: height of the waves that all lines follow, mm.
        """
        noise = self.noise(rng, across, down)
        rows = (self.y + self.curve(rng, waves)) / np.float32(self.mm)
        columns = np.broadcast_to(self.x / np.float32(self.mm), rows.shape)
        reflect = cv2.BORDER_REFLECT_101
        waved = cv2.remap(noise, columns.copy(), rows, cv2.INTER_LINEAR, borderMode=reflect)
        thickness = 0.25  # mm; noise changes by about 2 from grain to grain.
        return np.exp(-((waved * np.float32(down / 2 / thickness)) ** 2))

    def curve(self, rng: np.random.Generator, height: float) -> np.ndarray:
        """A wavy line across the picture: f32[1, W], deviations of about `height` millimetres."""
        phase = self.x * (2 * math.pi / float(self.x[0, -1]))
        line = np.zeros_like(phase)
        for k in (1, 2, 3, 5):
            turns, start = k * rng.uniform(0.4, 0.8), rng.uniform(0, 2 * math.pi)
            line += rng.normal() / k * np.sin(turns * phase + start)
        return height * line


@dataclasses.dataclass(frozen=True)
class Tissue:
    """Breast without a lesion.

    Attributes:
      echo: strength, dB relative to glandular tissue, f32[H, W].
      loss: echo lost on the way to a depth and back, dB beyond what the machine makes up for.
      gland: mean depths between which glandular tissue lies, mm.
    """

    echo: np.ndarray
    loss: np.ndarray
    gland: tuple[float, float]


def draw_tissue(rng: np.random.Generator, grid: Grid) -> Tissue:
    """Skin, fat, fibroglandular tissue, muscle; and fibres, lobules, shadows of ligaments."""
    depth = float(grid.y[-1, 0])
    skin = rng.uniform(1.0, 2.2)
    fat = skin + rng.uniform(0.05, 0.22) * depth
    gland = fat + rng.uniform(0.35, 0.5) * depth
    muscle = gland + rng.uniform(0.03, 0.1) * depth
    borders = [skin, fat, gland, muscle]
    waves = [0.15, 1.2, 1.5, 0.6]
    strength = [
        rng.uniform(4, 9),  # skin
        rng.uniform(-11, -6),  # fat
        0.0,  # gland
        rng.uniform(-12, -7),  # fat behind
        rng.uniform(-9, -3),  # muscle
    ]
    echo = np.full((grid.height, grid.width), strength[0], np.float32)
    tilt = grid.curve(rng, 1.0) * rng.uniform(0, 1)
    for border, wave, below in zip(borders, waves, strength[1:], strict=True):
        edge = border + grid.curve(rng, wave) + (tilt if border > skin else 0)
        share = _rise((grid.y - edge) / 0.25)
        echo += share * (below - echo)
        if border != gland:
            line = np.exp(-(((grid.y - edge) / 0.3) ** 2))
            echo += rng.uniform(3, 9) * line * (0.6 + 0.4 * grid.noise(rng, 8, 8))
    # Lobules of fat among the glands, fibres everywhere, striation deep down.
    inside = _between(grid, fat + 1, gland)
    lobules = grid.noise(rng, rng.uniform(4, 8), rng.uniform(2, 4))
    echo -= inside * rng.uniform(3, 9) * _rise((lobules - 0.8) * 6)
    echo += rng.uniform(1.5, 3.5) * grid.noise(rng, 6, 2)
    echo += rng.uniform(0.8, 2) * grid.noise(rng, 1.5, 0.8)
    septa = grid.fibres(rng, rng.uniform(12, 24), rng.uniform(2.5, 4.5), 1.5)
    here = np.clip(grid.noise(rng, 7, 5) + 0.3, 0, 1.5)
    echo += rng.uniform(6, 14) * septa * here
    striation = grid.fibres(rng, 24, rng.uniform(1.5, 3), 1) * _between(grid, muscle, 99)
    echo += rng.uniform(8, 15) * striation * np.clip(grid.noise(rng, 9, 3) + 0.3, 0, 1.5)
    return Tissue(echo, _ligament_shadows(rng, grid), (fat, gland))


def _between(grid: Grid, top: float, bottom: float) -> np.ndarray:
    return _rise(grid.y - top) * _rise(bottom - grid.y)


def _rise(x: np.ndarray) -> np.ndarray:
    """A step from 0 to 1 around 0, about 4 wide."""
    return 0.5 + 0.5 * np.tanh(0.5 * x)


def _ligament_shadows(rng: np.random.Generator, grid: Grid) -> np.ndarray:
    """Soft dark columns that begin somewhere and fan out; and what depth compensation leaves."""
    depth, width = float(grid.y[-1, 0]), float(grid.x[0, -1])
    loss = rng.uniform(-2, 14) * (grid.y / depth) ** 2
    loss = loss + np.zeros((grid.height, grid.width), np.float32)
    for _ in range(rng.integers(0, 5)):
        start, column = rng.uniform(0.1, 0.6) * depth, rng.uniform(0, width)
        spread = rng.uniform(0.7, 2.5) * (1 + 0.02 * np.maximum(grid.y - start, 0))
        lean = column + rng.uniform(-0.15, 0.15) * (grid.y - start)
        begun = _rise((grid.y - start) / 1.5)
        loss += rng.uniform(2, 8) * begun * np.exp(-(((grid.x - lean) / spread) ** 2))
    if rng.random() < 0.3:  # Poor contact at one side.
        side = width if rng.random() < 0.5 else 0.0
        loss += rng.uniform(5, 20) * np.exp(-np.abs(grid.x - side) / rng.uniform(1, 4))
    return loss


@dataclasses.dataclass(frozen=True)
class Acoustics:
    """What a lesion does to sound.

    Attributes:
      echo: strength inside, dB relative to glandular tissue.
      roughness: unevenness inside, dB.
      blur: width of the margin, mm.
      rim: strength of the capsule or halo outside, dB, and its width, mm.
      absorption: beyond that of tissue, dB per mm there and back; negative brightens below.
      calcifications: number of bright specks.
    """

    echo: float
    roughness: float
    blur: float
    rim: tuple[float, float]
    absorption: float
    calcifications: int


@dataclasses.dataclass(frozen=True)
class Lesion:
    """A lesion.

    Attributes:
      distance: from the margin, mm, f32[H, W]; negative inside.
      angle: around the centre, radians, f32[H, W].
      centre: across and depth, mm.
      halves: half width and half height, mm.
      acoustics: what it does to sound.
    """

    distance: np.ndarray
    angle: np.ndarray
    centre: tuple[float, float]
    halves: tuple[float, float]
    acoustics: Acoustics


def draw_lesion(rng: np.random.Generator, grid: Grid, tissue: Tissue, *, malignant: bool) -> Lesion:
    """Chooses place, form and acoustics of a lesion; it lies inside the picture, below the skin."""
    depth, width = float(grid.y[-1, 0]), float(grid.x[0, -1])
    size = math.exp(rng.uniform(math.log(4), math.log(8)))  # Geometric mean of the halves, mm.
    stretch = math.sqrt(rng.uniform(1.0, 1.6) if malignant else rng.uniform(0.45, 0.78))
    size = min(size, 0.35 * width * stretch, 0.3 * depth / stretch)
    halves = (size / stretch, size * stretch)
    top = halves[1] + 3
    centre = (
        rng.uniform(halves[0] + 2, width - halves[0] - 2),
        min(max(rng.uniform(*tissue.gland), top), max(0.75 * depth - halves[1], top)),
    )
    turn = rng.normal(0, 0.15)
    dx, dy = grid.x - centre[0], grid.y - centre[1]
    across = (dx * math.cos(turn) + dy * math.sin(turn)) / halves[0]
    down = (dy * math.cos(turn) - dx * math.sin(turn)) / halves[1]
    angle = np.arctan2(down, across)
    direction = ((angle + math.pi) * (_TURNS / (2 * math.pi))).astype(np.int32) % _TURNS
    distance = (cv2.magnitude(across, down) - _margin(rng, malignant)[direction]) * size
    return Lesion(distance, angle, centre, halves, _draw_acoustics(rng, malignant))


def _draw_acoustics(rng: np.random.Generator, malignant: bool) -> Acoustics:
    plain = rng.random() < 0.2  # A fifth of either class hardly changes the echo below it.
    if malignant:
        return Acoustics(
            echo=rng.uniform(-24, -9),
            roughness=rng.uniform(1.5, 4),
            blur=rng.uniform(0.2, 0.7),
            rim=(rng.uniform(2, 6), rng.uniform(1.0, 2.5)),
            absorption=rng.uniform(0.1, 0.3) if plain else rng.uniform(0.6, 1.6),
            calcifications=int(rng.integers(3, 12)) if rng.random() < 0.4 else 0,
        )
    cyst = rng.random() < 0.25
    return Acoustics(
        echo=rng.uniform(-40, -25) if cyst else rng.uniform(-18, -7),
        roughness=rng.uniform(0.3, 1.2),
        blur=rng.uniform(0.08, 0.2),
        rim=(rng.uniform(2, 6), rng.uniform(0.3, 0.5)),
        absorption=-rng.uniform(0, 0.15) if plain else -rng.uniform(0.5, 1.2),
        calcifications=0,
    )


def _margin(rng: np.random.Generator, malignant: bool) -> np.ndarray:
    """How far the margin is from the centre, in half axes, at `_TURNS` directions; f32."""
    angle = np.linspace(-math.pi, math.pi, _TURNS, endpoint=False, dtype=np.float32)
    margin = np.ones_like(angle)
    for k in range(2, 14) if malignant else range(2, 5):
        height = rng.normal(0, 0.16 / k**0.7) if malignant else rng.normal(0, 0.03)
        margin += height * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    if malignant:
        reach = rng.uniform(0.1, 0.45)
        for _ in range(rng.integers(4, 14)):  # Spicules.
            towards, width = rng.uniform(0, 2 * math.pi), rng.uniform(0.05, 0.14)
            away = np.abs((angle - towards + math.pi) % (2 * math.pi) - math.pi)
            margin += rng.uniform(0.3, 1) * reach * np.exp(-away / width)
    return margin


def _turn_index(angle: np.ndarray) -> np.ndarray:
    return ((angle + math.pi) * (_TURNS / (2 * math.pi))).astype(np.int32) % _TURNS


def paint(rng: np.random.Generator, grid: Grid, tissue: Tissue, lesion: Lesion) -> Tissue:
    """Puts a lesion into tissue."""
    acoustics = lesion.acoustics
    inside = _rise(-lesion.distance / acoustics.blur)
    own = acoustics.echo + acoustics.roughness * grid.noise(rng, 1.5, 1.2)
    echo = tissue.echo + inside * (own - tissue.echo)
    strength, width = acoustics.rim
    # A capsule reflects most where the beam meets it at a right angle.
    facing = 0.4 + 0.6 * np.abs(np.sin(lesion.angle))
    ring = np.exp(-(((lesion.distance - width / 2) / width) ** 2))
    echo += strength * facing * ring * (1 - inside)
    for _ in range(acoustics.calcifications):
        reach, turn = rng.uniform(0, 0.7), rng.uniform(0, 2 * math.pi)
        x = lesion.centre[0] + reach * math.cos(turn) * lesion.halves[0]
        y = lesion.centre[1] + reach * math.sin(turn) * lesion.halves[1]
        speck = np.exp(-((grid.x - x) ** 2 + (grid.y - y) ** 2) / (2 * 0.22**2))
        echo += rng.uniform(12, 22) * speck
    loss = np.cumsum(inside, axis=0) * (acoustics.absorption * grid.mm)
    below = tissue.loss + cv2.GaussianBlur(loss, (0, 0), 0.9 / grid.mm, sigmaY=0.01)
    if acoustics.absorption < 0:  # The sides of a smooth round body bend the sound away.
        for side in (-1, 1):
            column = lesion.centre[0] + side * lesion.halves[0]
            dark = np.exp(-(((grid.x - column) / 0.6) ** 2))
            below += 4 * dark * _rise((grid.y - lesion.centre[1]) / 0.8)
    return dataclasses.replace(tissue, echo=echo, loss=below)


def scan(rng: np.random.Generator, grid: Grid, tissue: Tissue) -> np.ndarray:
    """Images tissue: speckle, electronic noise, logarithm, gray.

    Returns:
      uint8[H, W].
    """
    depth = grid.y / grid.y[-1, 0]
    amplitude = np.exp((tissue.echo - tissue.loss) * (math.log(10) / 20))
    axial = rng.uniform(0.1, 0.17) / grid.mm  # Standard deviations of the point spread, pixels.
    lateral = rng.uniform(0.17, 0.33) / grid.mm
    away = np.minimum(np.abs(depth - rng.uniform(0.25, 0.7)) * 2, 1)  # From the focus.
    looks = int(rng.integers(3, 6))  # Compounding: speckle patterns averaged.
    envelope = np.zeros_like(amplitude)
    for _ in range(looks):
        quadratures = [quadrature(rng, amplitude, axial, lateral, away) for _ in range(2)]
        envelope += cv2.magnitude(*quadratures)
    hiss = rng.standard_normal(envelope.shape, dtype=np.float32)
    hiss *= 10 ** (rng.uniform(-48, -36) / 20) * (0.3 + depth)
    decibels = 20 * np.log10(cv2.magnitude(envelope / looks, hiss) + np.float32(1e-6))
    dynamic_range, level = rng.uniform(45, 62), rng.uniform(0.33, 0.55)
    shown = np.clip(level + decibels / dynamic_range, 0, 1) ** rng.uniform(0.9, 1.3)
    return np.round(255 * shown).astype(np.uint8)


def quadrature(
    rng: np.random.Generator, amplitude: np.ndarray, axial: float, lateral: float, away: np.ndarray
) -> np.ndarray:
    """One quadrature of the echo: scatterers under a point spread that widens off the focus."""
    scatterers = rng.standard_normal(amplitude.shape, dtype=np.float32)
    scatterers *= amplitude
    sharp, wide = (
        cv2.GaussianBlur(scatterers, (0, 0), sigma, sigmaY=axial)
        * math.sqrt(4 * math.pi * axial * sigma)  # Keeps the mean power.
        for sigma in (lateral, 1.8 * lateral)
    )
    wide -= sharp
    wide *= away
    wide += sharp
    return wide
