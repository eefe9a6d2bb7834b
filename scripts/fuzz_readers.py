"""The readers that `scripts/fuzz.py` feeds with damaged files, each as one function of a file."""

import contextlib
import dataclasses
import functools
import io
import random
import shutil
import struct
import sys
import zipfile
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from jaxbusi.errors import UserError
from scripts import fuzz_dicom, fuzz_mutations, fuzz_seeds, fuzz_weights
from scripts.fuzz_mutations import Inside, mutate

_NOT_WHOLE = (
    *(ValueError, LookupError, TypeError, AttributeError),
    *(struct.error, zlib.error, zipfile.BadZipFile),
)
"""What containers raise that a seed is not of, or that take no such change."""


@dataclasses.dataclass(frozen=True)
class Reader:
    """One kind of input.

    Attributes:
      name: in the table, and what `--readers` takes.
      share: of all inputs, relative to the others'.
      seeds: makes valid files.
      read: reads a file's content, with a folder of its own that `prepare` has filled.
      inside: changes a part of the file and makes its container whole again.
      prepare: fills the folder once a process.
    """

    name: str
    share: int
    seeds: Callable[[Path], list[bytes]]
    read: Callable[[bytes, Path], object]
    inside: Inside | None = None
    prepare: Callable[[Path], object] = lambda folder: None

    def input(self, seeds: list[bytes], seed: int, number: int) -> bytes:
        """Makes one damaged input; the same for the same numbers, whatever was made before."""
        random_ = random.Random(f"{seed} {zlib.crc32(self.name.encode())} {number}")
        data = random_.choice(seeds)
        change = functools.partial(mutate, others=seeds, random_=random_)
        if self.inside is not None and random_.random() < (
            1 if self.inside is fuzz_mutations.inside_named else 0.5
        ):
            with contextlib.suppress(*_NOT_WHOLE):
                return self.inside(data, change, random_)
        return change(data)


class WronglyRestored(Exception):  # noqa: N818 - what it is, not what was raised
    """A checkpoint that was damaged came back as other numbers, without a word."""


def _written(data: bytes, path: Path) -> Path:
    path.write_bytes(data)
    return path


def _image(data: bytes, folder: Path) -> None:
    from jaxbusi.data.images import decode_image

    decode_image(data, "benign/benign (1).png")


def _dicom(data: bytes, folder: Path) -> None:
    from jaxbusi.data import dicom
    from jaxbusi.data.images import decode_image

    path = _written(data, folder / "clip.dcm")
    frames = dicom.count_frames(str(path))
    try:
        if frames == 1:
            decode_image(data, path.name)
        else:
            with dicom.open_clip(path, path.name) as clip:
                clip.read(frames)
    except UserError as error:
        if fuzz_dicom.PATIENT[:4] in str(error):
            raise ValueError("the patient is named") from error
        raise


def _mask(data: bytes, folder: Path) -> None:
    from jaxbusi.data.images import lesion_mask

    lesion_mask([data], "benign/benign (1).png", (24, 32))


def _table(data: bytes, folder: Path) -> None:
    from jaxbusi.data.busi import read_records

    for record in read_records(_written(data, folder / "labels.csv"), require_all=False):
        assert Path(folder, record.name).resolve().is_relative_to(folder.resolve())
        record.image.read_bytes()


def _records() -> list[Any]:
    from jaxbusi.data.records import CLASSES, Record

    return [
        Record(name, CLASSES.index(name.split("/")[0]), Path(name)) for name in fuzz_seeds.NAMES
    ]


def _split(data: bytes, folder: Path) -> None:
    from jaxbusi.data import splits

    path = _written(data, folder / "split.csv")
    splits.read_rows(path)
    splits.read_split(path, _records(), fuzz_seeds.digests())


def _groups(data: bytes, folder: Path) -> None:
    from jaxbusi.data.grouping import read_groups

    read_groups(_written(data, folder / "groups.csv"), fuzz_seeds.NAMES)


def _predictions(data: bytes, folder: Path) -> None:
    from jaxbusi.evaluation.predictions import Predictions

    Predictions.read_csv(_written(data, folder / "predictions_test.csv")).originals()


def _history(data: bytes, folder: Path) -> None:
    from jaxbusi.logs import read_history

    _written(data, folder / "metrics.jsonl")
    for line in read_history(folder):
        assert line["step"] >= 0
        assert line["part"], line["epoch"]


def _config(data: bytes, folder: Path) -> None:
    from jaxbusi import workdir

    _written(data, folder / "config.json")
    workdir.read_settings(folder).to_json()
    workdir.read_origins(folder)


def _overrides(data: bytes, folder: Path) -> None:
    """The flags of a command line, without the process around them."""
    from absl import flags

    from jaxbusi import command
    from jaxbusi.settings import Settings

    arguments = data.replace(b"\0", b"").decode("utf-8", "surrogateescape").split("\n")
    config = fuzz_seeds.ROOT / "configs" / "fusion.py"
    argv = ["main", f"--config={config}", f"--workdir={folder}", *arguments]
    for name in [name for name in flags.FLAGS if name.startswith("config.")]:
        delattr(flags.FLAGS, name)
    flags.FLAGS.unparse_flags()
    said = io.StringIO()
    old, sys.argv = sys.argv, argv
    try:
        with contextlib.redirect_stderr(said):
            command.parse_flags(argv)
        Settings.from_config(command.CONFIG.value)
    except SystemExit as end:
        if end.code != 2:
            raise
        raise UserError(said.getvalue().removesuffix("\n")) from end
    finally:
        sys.argv = old
        flags.FLAGS.mark_as_parsed()  # for others in this process


def _weights(data: bytes, folder: Path) -> None:
    from jaxbusi.models.vit import SIZES, ViTSize
    from jaxbusi.weights.load import load_branch, read_weights

    SIZES["fuzz"] = ViTSize(patch=2, width=4, depth=1, heads=2, mlp=4, class_token=True)
    path = _written(data, folder / "weights")
    branch = read_weights(path).origin.branch
    load_branch(str(path), branch, vit="fuzz", image_size=6)


def _beside(data: bytes, folder: Path) -> None:
    from jaxbusi.weights.load import read_weights

    for name, source in (("config.json", "timm"), ("preprocessor_config.json", "huggingface")):
        _written(data, folder / name)
        read_weights(folder / source)


def _prepare_beside(folder: Path) -> None:
    timm, huggingface, *_ = fuzz_weights.safetensors()
    (folder / "timm").write_bytes(timm)
    (folder / "huggingface").write_bytes(huggingface)


def _features(data: bytes, folder: Path) -> None:
    """Never refused: what cannot be read is computed again."""
    from jaxbusi.features import _Known

    known = _Known(_written(data, folder / "features.npz"), "0123")
    keys = [bytes([number] * 16) for number in range(6)]
    if not len(known.missing(keys)):
        assert len(known.take(keys)["resnet18"]) == 6


def _familiarity(data: bytes, folder: Path) -> None:
    from jaxbusi import familiarity

    _written(data, folder / familiarity.NAME)
    found, _ = familiarity.read(folder, 3)
    assert found is None or found.whitening.shape[0] == found.means.shape[1]


def _familiarity_seeds(folder: Path) -> list[bytes]:
    import numpy as np

    from jaxbusi import familiarity

    known = familiarity.Familiarity(np.ones((2, 4), np.float32), np.eye(4, dtype=np.float32), 9, 9)
    familiarity.write(folder, known, 3)
    return [(folder / familiarity.NAME).read_bytes()]


def _calibration(data: bytes, folder: Path) -> None:
    from jaxbusi import calibration_file

    _written(data, folder / calibration_file.NAME)
    temperature, _ = calibration_file.read(folder, 3)
    assert temperature is None or temperature > 0


def _calibration_seeds(folder: Path) -> list[bytes]:
    from jaxbusi import calibration_file

    fitted = {"temperature": 1.5, "fitted_on": "validation", "images": 20, "at_edge": False}
    calibration_file.write(folder, fitted, 3)
    return [(folder / calibration_file.NAME).read_bytes()]


def _feature_seeds(folder: Path) -> list[bytes]:
    import numpy as np

    from jaxbusi.features import _Known

    path = folder / "seed.npz"
    keys = [bytes([number] * 16) for number in range(6)]
    _Known(path, "0123").add(keys, {"resnet18": np.ones((6, 4), np.float32)})
    return [path.read_bytes()]


# --- folders of several files, one of which is damaged --------------------------------------------


def _damaged(data: bytes, folder: Path, whole: Path) -> Path:
    """A copy of a folder with one file replaced; which, says the first line."""
    copy = folder / "copy"
    shutil.rmtree(copy, ignore_errors=True)
    shutil.copytree(whole, copy)
    name, _, content = data.partition(b"\n")
    (copy / name.decode()).write_bytes(content)
    return copy


def _prepared_set(folder: Path) -> Path:
    from jaxbusi.data.prepared import prepare

    whole = folder / "prepared"
    if not whole.exists():
        fuzz_seeds.write_set(folder / "set")
        prepare(folder / "set", whole)
    return whole / "busi" / "1.0.0"


def _prepared(data: bytes, folder: Path) -> None:
    from jaxbusi.data.prepared import read_prepared

    for record in read_prepared(_damaged(data, folder, _prepared_set(folder))):
        record.image.read_bytes()


@functools.cache
def _variables() -> Any:
    import jax.numpy as jnp

    kernel = jnp.sin(jnp.arange(9000.0))  # large enough for a file of its own, as real ones are
    return {
        "params": {"head": {"bias": jnp.zeros(3), "kernel": kernel}},
        "batch_stats": {"norm": {"mean": jnp.full(4, 0.5)}},
    }


def _checkpoint(folder: Path) -> Path:
    import jax.numpy as jnp

    from jaxbusi.checkpoints import Checkpoints
    from jaxbusi.state import Metrics, TrainState

    whole = folder / "whole"
    if not whole.exists():
        state = TrainState(
            step=jnp.int32(7), **_variables(), opt_state={"count": jnp.int32(7)}, average=None,
            metrics=Metrics.empty(),
        )  # fmt: skip
        checkpoints = Checkpoints(whole)
        checkpoints.save(state)
        checkpoints.wait()
        checkpoints.close()
    return whole


def _checkpoint_seeds(folder: Path) -> list[bytes]:
    """The files that are read for inference; the optimizer's are not."""
    return [f for f in fuzz_seeds.files_of(_checkpoint(folder)) if b"/training/" not in f[:200]]


def _restore(data: bytes, folder: Path) -> None:
    import jax
    import numpy as np

    from jaxbusi.checkpoints import Checkpoints

    checkpoints = Checkpoints(_damaged(data, folder, _checkpoint(folder)), read_only=True)
    try:
        step = checkpoints.latest_step()
        if step is None:
            raise UserError("no checkpoint is found")
        found = checkpoints.restore_variables(_variables(), step)
    finally:
        checkpoints.close()
    pairs = zip(jax.tree.leaves(found), jax.tree.leaves(_variables()), strict=True)
    if step != 7 or not all(np.array_equal(one, other) for one, other in pairs):
        raise WronglyRestored(f"step {step} came back changed")


def _plain(make: Callable[[], list[bytes]]) -> Callable[[Path], list[bytes]]:
    return lambda folder: make()


READERS: dict[str, Reader] = {
    reader.name: reader
    for reader in (
        Reader("png", 2600, _plain(fuzz_seeds.png), _image, fuzz_mutations.inside_png),
        Reader("jpeg", 2000, _plain(fuzz_seeds.jpeg), _image),
        Reader("tiff", 2400, _plain(fuzz_seeds.tiff), _image, fuzz_mutations.inside_tiff),
        Reader("bmp", 1400, _plain(fuzz_seeds.bmp), _image),
        Reader("dicom", 2400, _plain(fuzz_seeds.dicom), _dicom),
        Reader("mask", 1200, _plain(fuzz_seeds.masks), _mask),
        Reader("table", 1200, _plain(fuzz_seeds.tables), _table, prepare=fuzz_seeds.write_set),
        Reader("split", 1200, _plain(fuzz_seeds.splits), _split),
        Reader("groups", 800, _plain(fuzz_seeds.groups), _groups),
        Reader("predictions", 1200, _plain(fuzz_seeds.predictions), _predictions),
        Reader(
            "history", 800, _plain(fuzz_seeds.histories), _history, fuzz_mutations.inside_json_line
        ),
        Reader("config", 1400, _plain(fuzz_seeds.configs), _config, fuzz_mutations.inside_json),
        Reader("overrides", 800, _plain(fuzz_seeds.overrides), _overrides),
        Reader("torch", 1200, _plain(fuzz_weights.torch), _weights, fuzz_mutations.inside_zip),
        Reader("npz", 600, _plain(fuzz_weights.npz), _weights, fuzz_mutations.inside_zip),
        Reader(
            "safetensors", 1000, _plain(fuzz_weights.safetensors), _weights,
            fuzz_mutations.inside_safetensors,
        ),
        Reader(
            "beside", 300, _plain(fuzz_weights.beside), _beside, fuzz_mutations.inside_json,
            _prepare_beside,
        ),
        Reader(
            "familiarity", 400, _familiarity_seeds, _familiarity, fuzz_mutations.inside_zip,
        ),
        Reader(
            "calibration", 400, _calibration_seeds, _calibration, fuzz_mutations.inside_json,
        ),
        Reader("features", 400, _feature_seeds, _features, fuzz_mutations.inside_zip),
        Reader(
            "prepared", 250, lambda folder: fuzz_seeds.files_of(_prepared_set(folder)), _prepared,
            fuzz_mutations.inside_named,
        ),
        Reader("checkpoint", 250, _checkpoint_seeds, _restore, fuzz_mutations.inside_named),
    )
}  # fmt: skip
