"""The fused augmentation against torchvision's steps, one after the other, with PIL."""

import dataclasses
import itertools
import math
import random

import numpy as np
import pytest
from matplotlib.colors import hsv_to_rgb, rgb_to_hsv
from PIL import Image, ImageEnhance
from scipy import stats

from jaxbusi.data import augment
from jaxbusi.data.augment import AugmentSettings, Draw
from jaxbusi.errors import UserError

SETTINGS = AugmentSettings()
SIDE = SETTINGS.crop
NEAREST, BILINEAR = Image.Resampling.NEAREST, Image.Resampling.BILINEAR

STILL = Draw(
    top=0,
    left=0,
    height=SIDE,
    width=SIDE,
    flip_horizontal=False,
    flip_vertical=False,
    angle=0.0,
    factors=(1.0, 1.0, 1.0, 0.0),
    order=(0, 1, 2, 3),
    shift=(0, 0),
)
"""The draw that leaves an image of the crop's size as it is."""


def draws(count, settings=SETTINGS, seed=0):
    rng = np.random.default_rng(seed)
    return [augment.draw(rng, settings) for _ in range(count)]


def step_by_step(image, draw, side, rotation=BILINEAR):
    """torchvision's transforms on a PIL image, with the parameters of `draw`."""
    image = turn(image, draw, side, rotation)
    for step in draw.order:
        image = recolor(image, step, draw.factors[step])
    dx, dy = draw.shift
    matrix = (1, 0, -dx, 0, 1, -dy)
    return image.transform(image.size, Image.Transform.AFFINE, matrix, NEAREST, fillcolor=0)


def turn(image, draw, side, rotation):
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    image = image.crop(box).resize((side, side), BILINEAR)
    if draw.flip_horizontal:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.flip_vertical:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    return image.rotate(draw.angle, rotation, fillcolor=0)


def recolor(image, step, factor):
    if step == augment.BRIGHTNESS:
        return ImageEnhance.Brightness(image).enhance(factor)
    if step == augment.CONTRAST:
        return ImageEnhance.Contrast(image).enhance(factor)
    if step == augment.SATURATION:
        return ImageEnhance.Color(image).enhance(factor)
    return Image.fromarray(
        np.rint(255 * turn_hue(np.asarray(image) / 255, factor)).astype(np.uint8)
    )


def turn_hue(rgb, shift):
    """torchvision's adjust_hue for tensors: float[..., 3] in 0..1."""
    hsv = rgb_to_hsv(rgb)
    hsv[..., 0] = (hsv[..., 0] + shift) % 1
    return hsv_to_rgb(hsv)


def turn_hue_in_pil(image, shift):
    """torchvision's adjust_hue for PIL images: hue and saturation in 8 bits."""
    hue, saturation, value = image.convert("HSV").split()
    turned = np.asarray(hue) + np.int32(shift * 255).astype(np.uint8)
    return Image.merge("HSV", (Image.fromarray(turned), saturation, value)).convert("RGB")


def smooth_image(side, channels=1):
    """Broad waves between 20 and 235, slightly coloured: half a pixel is less than two levels."""
    y, x = np.mgrid[:side, :side] / side
    gray = 127.5 + 85 * np.sin(2 * np.pi * (0.7 * x + 0.5 * y))
    tints = [22 * np.sin(2 * np.pi * (0.4 * x - 0.3 * y + 0.2 * c)) for c in range(channels)]
    return np.rint(np.dstack([gray + tint for tint in tints])).astype(np.uint8)


def away_from_borders(image, margin):
    """Pixels whose neighbourhood of `margin` shows the image only."""
    shown = (np.asarray(image) > 0).astype(np.uint8)
    padded = np.pad(shown, margin)
    height, width = shown.shape
    kept = np.ones_like(shown)
    for dy, dx in itertools.product((0, margin, 2 * margin), repeat=2):
        kept &= padded[dy : dy + height, dx : dx + width]
    return kept.astype(bool)


@pytest.mark.parametrize(("rotation", "tolerance"), [(BILINEAR, 0.1), (NEAREST, 0.6)])
def test_geometry_is_torchvisions(rotation, tolerance):
    """Every pixel comes from the place that the steps take it from, in pixels of the result.

    torchvision's default for the rotation, nearest, is itself half a pixel off at most.
    """
    y, x = np.mgrid[: SETTINGS.resize, : SETTINGS.resize].astype(np.float32) + 1
    for draw in draws(40):
        for ramp, length in ((x, draw.width), (y, draw.height)):
            expected = np.asarray(turn(Image.fromarray(ramp), draw, SIDE, rotation))
            actual = augment._warp(ramp, draw, SIDE)
            inside = away_from_borders(expected, 4) & (actual > 0)
            assert inside.mean() > 0.7
            error = np.abs(actual - expected)[inside] * SIDE / length
            assert error.max() < tolerance


def test_the_rotated_image_ends_where_torchvisions_does():
    white = Image.new("L", (SIDE, SIDE), 255)
    for angle in (-15, -7.3, -0.4, 0.4, 3, 11.9, 15, 90):
        expected = np.asarray(white.rotate(angle, NEAREST, fillcolor=0))
        actual = augment._rotated_square(angle, SIDE)
        assert (actual != expected).sum() <= 40  # of 50,176, along the edges
        assert set(np.unique(actual)) <= {0, 255}


def test_the_border_is_not_blended_with_black():
    white = np.full((SETTINGS.resize, SETTINGS.resize), 255, np.uint8)
    for draw in draws(20):
        assert set(np.unique(augment._warp(white, draw, SIDE))) == {0, 255}


@pytest.mark.parametrize("flips", list(itertools.product((False, True), repeat=2)))
def test_flips_and_a_whole_crop_are_exact(flips):
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)
    draw = dataclasses.replace(STILL, flip_horizontal=flips[0], flip_vertical=flips[1])
    expected = image[:: -1 if flips[1] else 1, :: -1 if flips[0] else 1]
    np.testing.assert_array_equal(
        augment.apply(image, draw, SETTINGS), np.repeat(expected, 3, axis=2)
    )


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))))
def test_gray_colors_are_exactly_pils(order):
    rng = np.random.default_rng(1)
    image = rng.integers(0, 256, (SIDE, SIDE, 1), dtype=np.uint8)
    rgb = Image.fromarray(np.repeat(image, 3, axis=2))
    for draw in draws(4, seed=order[0] * 64 + order[1] * 16 + order[2] * 4 + order[3]):
        draw = dataclasses.replace(STILL, factors=draw.factors, order=order)
        actual = augment.apply(image, draw, SETTINGS)
        np.testing.assert_array_equal(actual, np.asarray(step_by_step(rgb, draw, SIDE)))


def test_saturation_and_hue_leave_gray_as_it_is():
    """In PIL, which is why one channel is enough; and in the three-channel path."""
    levels = np.arange(256, dtype=np.uint8).repeat(3).reshape(16, 16, 3)
    for draw in draws(20):
        for recolored in (
            recolor(Image.fromarray(levels), augment.SATURATION, draw.factors[augment.SATURATION]),
            turn_hue_in_pil(Image.fromarray(levels), draw.factors[augment.HUE]),
        ):
            np.testing.assert_array_equal(np.asarray(recolored), levels)
    gray = smooth_image(SETTINGS.resize)
    for draw in draws(10):
        np.testing.assert_array_equal(
            augment.apply(np.repeat(gray, 3, axis=2), draw, SETTINGS),
            augment.apply(gray, draw, SETTINGS),
        )


def test_colors_are_torchvisions_to_two_levels():
    """Even in vivid noise, where one level of rounding can become more in the steps after it."""
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    for draw in draws(40):
        draw = dataclasses.replace(STILL, factors=draw.factors, order=draw.order)
        expected = np.asarray(step_by_step(Image.fromarray(image), draw, SIDE)).astype(int)
        difference = np.abs(augment.apply(image, draw, SETTINGS) - expected)
        assert (difference > 2).mean() < 1e-3
        assert difference.max() <= 8


@pytest.mark.parametrize("factor", [0.0, 0.8, 0.93, 1.0, 1.2])
def test_saturation_is_pils_to_one_level(factor):
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    expected = recolor(Image.fromarray(image), augment.SATURATION, factor)
    actual = augment._adjust_saturation(image, factor)
    assert np.abs(actual.astype(int) - np.asarray(expected)).max() <= 1


@pytest.mark.parametrize("shift", [-0.5, -0.1, -0.003, 0.0, 0.07, 0.5])
def test_hue_follows_its_formula(shift):
    vivid = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    exact = 255 * turn_hue(vivid / 255, shift)
    assert np.abs(augment._adjust_hue(vivid, shift) - exact).max() < 0.51


@pytest.mark.parametrize("shift", [-0.1, -0.03, 0.03, 0.1])
def test_hue_is_pils_to_two_levels_in_muted_colors(shift):
    """As in BUSI. In vivid colours PIL's 8-bit hue is up to 15 levels off its own formula."""
    rng = np.random.default_rng(0)
    gray = rng.integers(20, 200, (SIDE, SIDE, 1))
    muted = (gray + rng.integers(0, 16, (SIDE, SIDE, 3))).astype(np.uint8)
    expected = np.asarray(turn_hue_in_pil(Image.fromarray(muted), shift)).astype(int)
    assert np.abs(augment._adjust_hue(muted, shift) - expected).max() <= 2


@pytest.mark.parametrize("channels", [1, 3])
def test_all_steps_together(channels):
    """The steps round to 8 bits after each resampling, which the colour steps then amplify."""
    image = smooth_image(SETTINGS.resize, channels)
    pil = Image.fromarray(np.broadcast_to(image, (*image.shape[:2], 3)).copy())
    white = Image.new("RGB", pil.size, "white")
    shares = []
    for draw in draws(40):
        neutral = dataclasses.replace(draw, factors=STILL.factors)
        shown = np.asarray(step_by_step(white, neutral, SIDE))[..., 0]
        inside, outside = away_from_borders(shown, 3), away_from_borders(255 - shown, 3)
        assert inside.mean() > 0.5
        expected = np.asarray(step_by_step(pil, draw, SIDE)).astype(int)
        actual = augment.apply(image, draw, SETTINGS)
        assert actual.shape == (SIDE, SIDE, 3)
        assert actual.dtype == np.uint8
        difference = np.abs(actual - expected)
        shares.append((difference[inside] > 2).mean())
        assert difference[inside].mean() < 1
        assert (difference * outside[..., None]).max() <= 1
    assert np.mean(shares) < 0.02


def test_what_the_shift_brings_in_is_black_and_the_corners_are_recolored():
    image = np.full((SIDE, SIDE, 1), 200, np.uint8)
    draw = dataclasses.replace(STILL, angle=15.0, factors=(1.0, 0.5, 1.0, 0.0), shift=(22, -7))
    result = augment.apply(image, draw, SETTINGS)
    assert (result[:, :22] == 0).all()
    assert (result[-7:] == 0).all()
    mean = 200 * (augment._rotated_square(15.0, SIDE) > 0).mean()
    assert abs(int(result[0, 22, 0]) - mean / 2) <= 1


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("shift", [(0, 0), (22, -7), (-3, 9), (SIDE, 0), (0, -SIDE)])
def test_a_shift_moves_whole_pixels(shift, channels):
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, channels), dtype=np.uint8)
    pil = Image.fromarray(np.broadcast_to(image, (SIDE, SIDE, 3)).copy())
    draw = dataclasses.replace(STILL, shift=shift)
    out = np.full((2, SIDE, SIDE, 3), 99, np.uint8)
    augment.apply(image, draw, SETTINGS, out[1])
    np.testing.assert_array_equal(out[1], np.asarray(step_by_step(pil, draw, SIDE)))
    assert (out[0] == 99).all()


def test_a_strong_reduction_is_averaged_down():
    settings = AugmentSettings(resize=512, crop=64)
    y, x = np.mgrid[:512, :512]
    stripes = ((x // 4 + y // 4) % 2 * 255).astype(np.uint8)[..., None]
    draw = dataclasses.replace(STILL, height=512, width=512, angle=10.0)
    result = augment.apply(stripes, draw, settings)[16:48, 16:48]
    assert np.abs(result - 127.5).max() < 8
    assert np.abs(augment._warp(stripes[:64, :64], STILL, 64) - 127.5).max() > 120


def test_draws_are_distributed_as_torchvisions():
    sample = draws(6000)
    uniform = {
        "angle": ([d.angle for d in sample], -15, 15),
        "brightness": ([d.factors[0] for d in sample], 0.8, 1.2),
        "contrast": ([d.factors[1] for d in sample], 0.8, 1.2),
        "saturation": ([d.factors[2] for d in sample], 0.8, 1.2),
        "hue": ([d.factors[3] for d in sample], -0.1, 0.1),
    }
    for name, (values, low, high) in uniform.items():
        assert low <= min(values) < max(values) <= high, name
        assert stats.kstest(values, "uniform", (low, high - low)).pvalue > 0.001, name
    for axis in (0, 1):
        shifts = np.array([d.shift[axis] for d in sample])
        assert (shifts.min(), shifts.max()) == (-22, 22)
        # Uniform in ±22.4, rounded: the two ends are rarer.
        shares = np.array([0.9, *[1.0] * 43, 0.9]) / 44.8
        assert stats.chisquare(np.bincount(shifts + 22), shares * len(shifts)).pvalue > 0.001
    for flips in ([d.flip_horizontal for d in sample], [d.flip_vertical for d in sample]):
        assert stats.binomtest(sum(flips), len(flips), 0.5).pvalue > 0.001
    orders = [sum(4**k * step for k, step in enumerate(d.order)) for d in sample]
    _, counts = np.unique(orders, return_counts=True)
    assert len(counts) == 24
    assert stats.chisquare(counts).pvalue > 0.001


def torchvision_crop(side, scale, ratio):
    """RandomResizedCrop.get_params, from its definition, on Python's own random numbers."""
    for _ in range(10):
        area = side * side * random.uniform(*scale)
        aspect = math.exp(random.uniform(math.log(ratio[0]), math.log(ratio[1])))
        width, height = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < width <= side and 0 < height <= side:
            return random.randint(0, side - height), random.randint(0, side - width), height, width
    return 0, 0, side, side


def test_crops_are_distributed_as_torchvisions():
    random.seed(0)
    expected = np.array([torchvision_crop(256, (0.08, 1), (3 / 4, 4 / 3)) for _ in range(6000)])
    actual = np.array([(d.top, d.left, d.height, d.width) for d in draws(6000)])
    for column in range(4):
        assert stats.ks_2samp(actual[:, column], expected[:, column]).pvalue > 0.001
    top, left, height, width = actual.T
    assert (top >= 0).all()
    assert (left >= 0).all()
    assert (top + height).max() == 256
    assert (left + width).max() == 256
    assert (width / height).min() > 0.73
    assert (width / height).max() < 1.37
    assert (width * height).min() / 256**2 > 0.077


@pytest.mark.parametrize(
    ("ratio", "crop"), [((2.0, 2.0), (64, 0, 128, 256)), ((0.5, 0.5), (0, 64, 256, 128))]
)
def test_a_crop_that_never_fits_falls_back_to_the_centre(ratio, crop):
    (draw,) = draws(1, AugmentSettings(scale=(1.0, 1.0), ratio=ratio))
    assert (draw.top, draw.left, draw.height, draw.width) == crop


def test_settings_at_zero_change_nothing():
    settings = AugmentSettings(
        resize=SIDE,
        scale=(1.0, 1.0),
        ratio=(1.0, 1.0),
        horizontal_flip=0,
        vertical_flip=0,
        rotation=0,
        brightness=0,
        contrast=0,
        saturation=0,
        hue=0,
        translation=0,
    )
    image = np.random.default_rng(0).integers(0, 256, (SIDE, SIDE, 3), dtype=np.uint8)
    result = augment.augment(image, np.random.default_rng(1), settings)
    np.testing.assert_array_equal(result, image)


def test_the_same_generator_gives_the_same_copy_and_the_image_stays():
    image = smooth_image(SETTINGS.resize)
    image.flags.writeable = False
    first, again, other = (
        augment.augment(image, np.random.default_rng(seed), SETTINGS) for seed in (3, 3, 4)
    )
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("crop", 0),
        ("scale", (0.5, 0.2)),
        ("scale", (0.0, 1.0)),
        ("ratio", (0.0, 1.0)),
        ("vertical_flip", 1.5),
        ("rotation", -1.0),
        ("contrast", -0.1),
        ("hue", 0.6),
        ("translation", 1.5),
    ],
)
def test_settings_out_of_range_are_refused_by_name(key, value):
    with pytest.raises(UserError, match=rf"config\.data\.augment\.{key}=.*must be"):
        AugmentSettings(**{key: value})
