"""Measures how well a run tells images that are unlike its training data.

    python scripts/measure_familiarity.py --workdir runs/fusion

The run has a validation part, and its images still lie where config.data.root says. Printed is for
each set how many of its images are beyond the limit: of the run's own parts (false alarms), and of
sets that are foreign in ways from the coarsest to the finest. docs/predicting.md has a table.
"""

import argparse
import tempfile
from pathlib import Path

import cv2
import jax
import numpy as np

from jaxbusi import familiarity, train
from jaxbusi.data import busi, phantoms, splits
from jaxbusi.data.images import decode_image, read_file
from jaxbusi.errors import fail
from jaxbusi.predictor import Predictor
from jaxbusi.state import make_mesh

_MOST = 60
"""Images of a foreign set."""

Images = list[np.ndarray]


def foreign(own: Images, masks: Images) -> dict[str, Images]:
    """Sets of at most 60 images that are not what a run was trained on.

    Args:
      own: images of the test part.
      masks: lesion masks of the set, as images.
    """
    rng = np.random.default_rng(0)
    photos = _photographs(rng)
    own = own[:_MOST]
    return {
        "black, gray and white, without a picture": [
            np.full((100, 100, 3), value, np.uint8) for value in range(0, 256, 15)
        ],
        "noise": [_gray(rng.integers(0, 256, (200, 200), np.uint8)) for _ in range(_MOST)],
        "photographs": photos,
        "photographs, gray": [_gray(cv2.cvtColor(photo, cv2.COLOR_RGB2GRAY)) for photo in photos],
        "lesion masks": masks[:_MOST],
        "test images, inverted": [255 - image for image in own],
        "test images, turned by 90°": [np.ascontiguousarray(np.rot90(image)) for image in own],
        "test images, upside down": [np.ascontiguousarray(image[::-1]) for image in own],
        "test images, blurred": [
            cv2.GaussianBlur(image, (0, 0), image.shape[1] / 50) for image in own
        ],
        "synthetic ultrasound (jaxbusi.data.phantoms)": _phantoms(),
    }


def _gray(values: np.ndarray) -> np.ndarray:
    return np.repeat(values[:, :, None], 3, axis=2)


def _photographs(rng: np.random.Generator) -> Images:
    """Pieces of the two photographs that scikit-learn brings, a temple and a flower."""
    from sklearn.datasets import load_sample_images

    pieces = []
    for photo in load_sample_images().images * (_MOST // 2):
        side = int(rng.integers(120, 400))
        top, left = (int(rng.integers(0, photo.shape[axis] - side)) for axis in (0, 1))
        pieces.append(np.ascontiguousarray(photo[top : top + side, left : left + side]))
    return pieces


def _phantoms() -> Images:
    with tempfile.TemporaryDirectory() as folder:
        phantoms.write_phantoms(Path(folder), count=_MOST, seed=0, size=256)
        paths = sorted(path for path in Path(folder).glob("*/*.png") if "_mask" not in path.name)
        return [decode_image(path.read_bytes(), path.name) for path in paths]


def measure(workdir: Path) -> dict[str, np.ndarray]:
    """Returns the distances float32[N] of the images of each set, 1 at the limit."""
    run = train.load_model(workdir, mesh := make_mesh(jax.local_devices()[:1]))
    familiar, why = familiarity.read(workdir, run.step)
    if familiar is None:
        fail(why)
    predictor = Predictor(
        run.model, run.variables, run.settings.data.augment.crop, mesh, familiar=familiar
    )
    records = {record.name: record for record in busi.read_records(run.settings.data.root)}
    parts: dict[str, Images] = {"validation": [], "test": []}
    masks = []
    for row in splits.read_rows(workdir / "split.csv"):
        if row.part in parts:
            record = records[row.image]
            data = read_file(record.image, record.name)
            parts[row.part].append(decode_image(data, record.name))
            masks += [decode_image(read_file(m, record.name), "mask") for m in record.masks[:1]]
    sets = {f"{name} part": images for name, images in parts.items()}
    sets |= foreign(parts["test"], [mask for mask in masks if mask.any()])
    return {name: predictor.distance(images) for name, images in sets.items()}


def main() -> None:
    """The command."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--workdir", type=Path, required=True)
    print("| images | how many | beyond the limit | median distance |\n| --- | --- | --- | --- |")
    for name, far in measure(parser.parse_args().workdir).items():
        print(f"| {name} | {len(far)} | {100 * np.mean(far > 1):.0f} % | {np.median(far):.2f} |")


if __name__ == "__main__":
    main()
