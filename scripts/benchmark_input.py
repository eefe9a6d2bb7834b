"""Measures the input pipeline against the one that torchvision's users write, step by step in PIL.

    python scripts/benchmark_input.py                # synthetic images, about a minute
    python scripts/benchmark_input.py --root BUSI    # a folder in any layout that training takes

All but the last table is images per second of processor time, that is per core, so that other
programs on the machine disturb little; ratios are medians over rounds in the order A B A B.
"""

import argparse
import logging
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Generator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, ImageEnhance

from jaxbusi.data import augment, busi, phantoms, pipeline
from jaxbusi.data.augment import AugmentSettings, Draw
from jaxbusi.data.records import Record
from jaxbusi.data.store import ImageStore

SETTINGS = AugmentSettings()
MEAN = np.array([0.485, 0.456, 0.406], np.float32)
DEVIATION = np.array([0.229, 0.224, 0.225], np.float32)
BATCH = 64  # the paper's


def step_by_step(image: Image.Image, draw: Draw) -> Image.Image:
    """Torchvision's transforms of a 256² PIL image, with its default interpolations."""
    side = SETTINGS.crop
    box = (draw.left, draw.top, draw.left + draw.width, draw.top + draw.height)
    image = image.crop(box).resize((side, side), Image.Resampling.BILINEAR)
    if draw.flip_horizontal:
        image = image.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    if draw.flip_vertical:
        image = image.transpose(Image.Transpose.FLIP_TOP_BOTTOM)
    image = image.rotate(draw.angle, Image.Resampling.NEAREST, fillcolor=0)
    for step in draw.order:
        factor = draw.factors[step]
        if step == augment.BRIGHTNESS:
            image = ImageEnhance.Brightness(image).enhance(factor)
        elif step == augment.CONTRAST:
            image = ImageEnhance.Contrast(image).enhance(factor)
        elif step == augment.SATURATION:
            image = ImageEnhance.Color(image).enhance(factor)
        else:
            hue, saturation, value = image.convert("HSV").split()
            turned = Image.fromarray(np.asarray(hue) + np.int32(factor * 255).astype(np.uint8))
            image = Image.merge("HSV", (turned, saturation, value)).convert("RGB")
    matrix = (1, 0, -draw.shift[0], 0, 1, -draw.shift[1])
    size = (side, side)
    return image.transform(size, Image.Transform.AFFINE, matrix, Image.Resampling.NEAREST)


def to_tensor(image: Image.Image) -> np.ndarray:
    """Torchvision's ToTensor and Normalize: float32[3, H, W]."""
    pixels = np.asarray(image).transpose(2, 0, 1).astype(np.float32) / 255
    return (pixels - MEAN[:, None, None]) / DEVIATION[:, None, None]


def pil_batches(records: Sequence[Record], rows: Sequence[int]) -> None:
    """One pass over `rows` as a Dataset and its collation would make it."""
    rng = np.random.default_rng(0)
    for first in range(0, len(rows), BATCH):
        tensors = []
        for row in rows[first : first + BATCH]:
            path = records[row].image
            assert isinstance(path, Path)
            with Image.open(path) as file:
                image = file.convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
            tensors.append(to_tensor(step_by_step(image, augment.draw(rng, SETTINGS))))
        np.stack(tensors)


def our_batches(store: ImageStore, workers: int = 0) -> Generator[pipeline.Batch]:
    """Batches the way training gets them; the first one is there already."""
    samples = pipeline.expand(range(len(store)), [0] * len(store), 1)
    batches = pipeline.train_batches(
        store, samples, SETTINGS, seed=0, batch_size=BATCH, workers=workers
    )
    next(batches)
    return batches


def take(batches: Generator[pipeline.Batch], count: int) -> None:
    """Takes as many batches as hold `count` images, and waits until as many are made anew."""
    for _ in range(count // BATCH):
        next(batches)
    spent = -1.0
    while time.process_time() - spent > 0.005:
        spent = time.process_time()
        time.sleep(0.05)


def rates(ways: dict[str, Callable[[], None]], images: int, rounds: int) -> dict[str, list[float]]:
    """Images per second of processor time, each way once a round after a first one unmeasured."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for number in range(rounds + 1):
        for name, run in ways.items():
            start = time.process_time()
            run()
            if number:
                found[name].append(images / (time.process_time() - start))
    return found


def leads(found: dict[str, list[float]]) -> dict[str, float]:
    """The median ratio of each way's rates to those of the first."""
    first = next(iter(found.values()))
    return {
        name: statistics.median(a / b for a, b in zip(values, first, strict=True))
        for name, values in found.items()
    }


def table(title: str, found: dict[str, list[float]]) -> float:
    """Prints the rates and each one's ratio to the first; returns the last ratio."""
    print(f"\n{title}")
    ratios = leads(found)
    for name, values in found.items():
        print(f"  {name:42s} {statistics.median(values):8.0f} images/s  {ratios[name]:6.2f} x")
    return list(ratios.values())[-1]


def augmentation(bases: Sequence[np.ndarray], rounds: int, title: str) -> float:
    """Compares the augmentation alone, from the 256² image to the 224² one."""
    draws = [augment.draw(np.random.default_rng(row), SETTINGS) for row in range(len(bases))]
    images = [Image.fromarray(np.broadcast_to(b, (*b.shape[:2], 3)).copy()) for b in bases]

    def in_pil() -> None:
        for image, draw in zip(images, draws, strict=True):
            np.asarray(step_by_step(image, draw))

    def fused() -> None:
        for base, draw in zip(bases, draws, strict=True):
            augment.apply(base, draw, SETTINGS)

    ways = {"PIL, step by step": in_pil, "jaxbusi": fused}
    return table(f"augmentation, {title}", rates(ways, len(bases), rounds))


def by_the_clock(store: ImageStore, count: int) -> None:
    """Prints what threads and processes give over so many batches, other programs included."""
    print("\nthreads and processes, images per second by the clock")
    for workers in (0, 1, 2):
        start = time.perf_counter()
        batches = our_batches(store, workers)
        begun = time.perf_counter() - start
        for _ in range(count // 6):
            next(batches)
        start = time.perf_counter()
        for _ in range(count):
            next(batches)
        rate = count * BATCH / (time.perf_counter() - start)
        batches.close()
        name = f"{workers} processes" if workers else "threads"
        print(f"  {name:42s} {rate:8.0f} images/s, the first batch after {begun:.1f} s")


def choose(root: Path, count: int) -> list[Record]:
    """Picks `count` images, spread over the set."""
    records = busi.read_folder(root, require_all=False)
    return [records[row] for row in np.linspace(0, len(records) - 1, count).astype(int)]


def open_store(records: Sequence[Record], cache_gib: float) -> ImageStore:
    """Opens a store of the sizes that are augmented."""
    return ImageStore(
        records,
        resize=SETTINGS.resize,
        crop=SETTINGS.crop,
        cache_gib=cache_gib,
        on_bad="error",
        progress=False,
    )


def augmentation_ratios(records: Sequence[Record], rounds: int) -> tuple[float, float]:
    """Prints and returns the lead of the augmentation alone: as they are, and in false colours."""
    store = open_store(records, 4.0)
    bases = [store.base(row) for row in range(len(store))]
    tinted = [np.dstack([base[..., 0], base[..., 0] // 2, base[..., -1]]) for base in bases]
    return (
        augmentation(bases, rounds, "the images as they are"),
        augmentation(tinted, rounds, "the images in false colours"),
    )


def pipelines(records: Sequence[Record], rounds: int) -> dict[str, list[float]]:
    """Rates of files to batches, with all that belongs to it."""
    kept, streamed = open_store(records, 4.0), open_store(records, 0.0)
    from_files, from_memory = our_batches(streamed), our_batches(kept)
    count = len(records) // BATCH * BATCH
    ways = {
        "PIL, step by step, from the files": lambda: pil_batches(records, range(count)),
        "jaxbusi, decoded at every use": lambda: take(from_files, count),
        "jaxbusi, decoded once": lambda: take(from_memory, count),
    }
    take(from_files, 0)
    found = rates(ways, count, rounds)
    from_files.close()
    from_memory.close()
    return found


def memory(records: Sequence[Record], batches: int) -> dict[str, float]:
    """MiB by which this process grew over the second half of so many batches of 64, and before."""
    stream = our_batches(open_store(records, 4.0))
    held = [_resident()]
    for _ in range(2):
        for _ in range(batches // 2):
            next(stream)
        held.append(_resident())
    stream.close()
    return {"first half": held[1] - held[0], "second half": held[2] - held[1]}


def _resident() -> float:
    """MiB of memory that this process holds; Linux."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize() / 2**20


def summary(rounds: int, images: int = 2 * BATCH) -> list[dict[str, Any]]:
    """Files to batches on synthetic images: rates, and ratios to PIL's."""
    with tempfile.TemporaryDirectory() as directory:
        phantoms.write_phantoms(directory, count=images, seed=0, size=512)
        found = pipelines(choose(Path(directory), images), rounds)
    ratios = leads(found)
    return [
        {"pipeline": name, "images/s": statistics.median(values), "x PIL": ratios[name]}
        for name, values in found.items()
    ]


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--root", type=Path, help="folder of images; default: synthetic ones")
    parser.add_argument("--images", type=int, default=256, help="how many of them; default 256")
    parser.add_argument("--rounds", type=int, default=3, help="repetitions; default 3")
    options = parser.parse_args()
    logging.disable(logging.INFO)
    with tempfile.TemporaryDirectory() as directory:
        root = options.root
        if root is None:
            root = Path(directory)
            phantoms.write_phantoms(root, count=options.images, seed=0, size=512)
        records = choose(root, max(options.images, BATCH))
        augmentation_ratios(records, options.rounds)
        table("files to batches", pipelines(records, options.rounds))
        by_the_clock(open_store(records, 4.0), options.images // 4)
        batches = 4 * options.images
        grown = ", ".join(f"{half} {mib:.1f} MiB" for half, mib in memory(records, batches).items())
        print(f"\nmemory grows over {batches} batches: {grown}")


if __name__ == "__main__":
    main()
