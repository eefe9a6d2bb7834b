"""A trained run over any number of image files: read ahead, on all devices, into files.

The batches of a file of predictions begin with its first image, and a file that cannot be read
keeps its place in its batch. So a prediction depends on the list, the model and the devices, and
never on who else shares the work, or on where it was interrupted.
"""

import collections
import contextlib
import dataclasses
import logging
import os
import time
from collections.abc import Generator, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbusi import atomic, calibration_file, familiarity, train
from jaxbusi import workdir as workdirs
from jaxbusi.data import inputs
from jaxbusi.data.images import ImageError
from jaxbusi.data.store import usable_cores
from jaxbusi.data.threads import in_threads
from jaxbusi.errors import Interrupted, UserError
from jaxbusi.fingerprint import fingerprint
from jaxbusi.logs import progress_bar
from jaxbusi.prediction_files import Rows, kind_of, open_file, require_pyarrow
from jaxbusi.prediction_parts import Parts
from jaxbusi.predictor import Judged, Predictor
from jaxbusi.shards import Shard, find_shard
from jaxbusi.state import make_mesh
from jaxbusi.stopping import StopSignals

PART_ROWS = 4096
"""Images of a part: seconds of a GPU's work, and what an interrupted run does once more."""

_BATCH = 64  # Images on a device at a time.
_MOST_THREADS = 16
_ON_DEVICE = 2  # Batches that are on the devices at a time, so that these need not wait.
_NAMED = 10  # Bad files that the log names.


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What became of the images of this process's share.

    Attributes:
      images: how many there are.
      failed: of these, how many could not be used.
      predicted: how many this call has looked at; others were done before.
      seconds: by the clock, from the first file to the end.
    """

    images: int
    failed: int
    predicted: int
    seconds: float


@dataclasses.dataclass(frozen=True)
class _Target:
    """A file to write, and the places in the list of the images that go into it."""

    path: Path
    images: range


@dataclasses.dataclass(frozen=True)
class _Read:
    """A batch of images: their names, what is wrong with them, and uint8[B, s, s, 3]."""

    names: list[str]
    errors: list[str | None]
    squares: np.ndarray


def predict_files(
    workdir: Path,
    given: Sequence[str],
    out: str,
    *,
    part_rows: int | None = None,
    shard: Shard | None = None,
) -> Outcome:
    """Predicts image files and writes one row for each, in the order of their paths.

    Args:
      workdir: a folder that `python -m jaxbusi.main` wrote.
      given: files, folders, patterns and CSV lists, as `inputs.find_inputs` takes them.
      out: a file .csv, .jsonl or .parquet, beside which a .json says what it is; or a folder,
        which ends in a slash or is there. A folder's finished parts are kept.
      part_rows: images of a part, for folders; `PART_ROWS` by default.
      shard: which share of a folder's parts to write; by default what `find_shard` finds.

    Raises:
      UserError: bad input or settings, a folder of another list or model, a full disk.
      Interrupted: SIGTERM or SIGINT arrived.
    """
    kind = kind_of(out)
    if kind in ("folder", ".parquet"):
        require_pyarrow(out)
    shard = find_shard(shard, os.environ)
    _check_out(kind, given, out, part_rows, shard)
    workdirs.read_config(workdir)  # what is no run is refused before a million files are listed
    paths = inputs.find_inputs(given)
    logging.info("%d images to predict", len(paths))
    predictor, about = _load(workdir)
    about |= {"images": len(paths), "images_sha256": inputs.digest(paths)}
    if kind == "folder":
        parts = Parts(Path(out), len(paths), part_rows or PART_ROWS, about)
        return _predict_parts(_Batches(predictor, paths, parts.rows), parts, shard)
    target = _Target(Path(out), range(len(paths)))
    again = "a single file is begun again by the same command; a folder (--out NAME/) goes on"
    outcome = _predict(_Batches(predictor, paths), [target], about, again)
    atomic.write_json(f"{out}.json", {**about, "failed": outcome.failed})
    return outcome


def _check_out(
    kind: str, given: Sequence[str], out: str, part_rows: int | None, shard: Shard
) -> None:
    if kind == "folder":
        return
    if part_rows is not None:
        raise UserError(f"--part-rows is for folders; --out {out} is one file")
    if shard.count > 1:
        raise UserError(
            f"--out {out} is one file, which {shard.count} processes cannot share; name a folder "
            f"(--out {Path(out).stem}/), or give --shard=0/1 to do all of it here"
        )
    if os.path.realpath(out) in map(os.path.realpath, given):
        raise UserError(f"--out {out} is an INPUT itself; name another file")


def _load(workdir: Path) -> tuple[Predictor, dict[str, Any]]:
    """The run on the devices of this process, and what it is."""
    mesh = make_mesh(jax.local_devices())
    run = train.load_model(workdir, mesh)
    temperature, why = calibration_file.read(workdir, run.step)
    if temperature is None:
        logging.warning("the probabilities are not calibrated: %s", why)
    else:
        logging.info("the probabilities are calibrated at temperature %.3f, %s", temperature, why)
    familiar, why = familiarity.read(workdir, run.step)
    if familiar is None:
        logging.warning("images unlike the training data cannot be told: %s", why)
    else:
        logging.info("images are compared with the training data, %s", why)
    about = {
        **fingerprint(run, workdir),
        "calibrated": temperature is not None,
        "temperature": temperature,
        "familiarity_sha256": None if familiar is None else familiar.sha256,
    }
    size = run.settings.data.augment.crop
    predictor = Predictor(run.model, run.variables, size, mesh, temperature or 1.0, familiar)
    return predictor, about


def _predict_parts(batches: "_Batches", parts: Parts, shard: Shard) -> Outcome:
    """Writes the parts of this share that are not there."""
    parts.claim()
    done = images = failed = 0
    missing = []
    for part in range(shard.index, parts.count, shard.count):
        bad = parts.failed(part)
        if bad is None:
            missing.append(_Target(parts.path(part), parts.images_of(part)))
        else:
            done, images, failed = done + 1, images + len(parts.images_of(part)), failed + bad
    logging.info(
        "%s: %d of %d parts are this share's, %d of them are there",
        *(parts.folder, done + len(missing), parts.count, done),
    )
    again = "finished parts are kept; the same command goes on from there"
    outcome = _predict(batches, missing, parts.about, again)
    return dataclasses.replace(
        outcome, images=images + outcome.images, failed=failed + outcome.failed
    )


def _predict(
    batches: "_Batches",
    targets: Sequence[_Target],
    about: Mapping[str, Any],
    again: str,
) -> Outcome:
    """Writes whole files, one after the other; `again` says what to do after a signal."""
    total = sum(len(target.images) for target in targets)
    begun, done, failed, unfamiliar = time.monotonic(), 0, 0, 0
    source = batches.predict(targets)
    bar = progress_bar(total, "predicting", "image")
    signals = StopSignals()
    with signals.watch(), contextlib.closing(bar), contextlib.closing(source):
        for target in targets:
            end = done + len(target.images)
            with open_file(target.path, about) as writer:
                while done < end:
                    rows = next(source)
                    writer.write(rows)
                    failed = _announce(rows, failed)
                    unfamiliar += rows.count_unfamiliar()
                    bar.update(len(rows.image))
                    done += len(rows.image)
                    if signals.received and done < end:
                        raise Interrupted(signals.received, again)
            if signals.received and done < total:
                raise Interrupted(signals.received, again)
    if unfamiliar:
        logging.warning("%d of %d images are unlike the training data", unfamiliar, total - failed)
    return Outcome(total, failed, total, time.monotonic() - begun)


class _Batches:
    """Reads the images of a list and predicts them, in batches of one compiled shape."""

    def __init__(self, predictor: Predictor, paths: Sequence[bytes], rows: int | None = None):
        """Takes the model, the list, and of how many images a file of predictions is at most."""
        self._predictor = predictor
        self._paths = paths
        # No larger than a few images need. Of the whole list, not of what is left of it: in
        # batches of another size the last bits of a probability are others.
        each = -(-min(len(paths), rows or len(paths)) // predictor.devices)
        self._size = predictor.devices * min(_BATCH, 1 << (each - 1).bit_length())

    def predict(self, targets: Iterable[_Target]) -> Generator[Rows]:
        """Yields the rows of all targets in order; no batch crosses from one to the next."""
        spans = (
            range(first, min(first + self._size, target.images.stop))
            for target in targets
            for first in range(target.images.start, target.images.stop, self._size)
        )
        ahead: collections.deque[tuple[_Read, Judged]] = collections.deque()
        # A batch of 64 images of 224 pixels takes 10 MB: what is decoded ahead is bounded.
        decoded = in_threads(self._read, spans, ahead=min(usable_cores(), _MOST_THREADS) + 2)
        with contextlib.closing(decoded):
            for batch in decoded:
                ahead.append((batch, self._predictor.start(batch.squares)))
                if len(ahead) >= _ON_DEVICE:
                    yield _rows(*ahead.popleft())
            while ahead:
                yield _rows(*ahead.popleft())

    def _read(self, images: range) -> _Read:
        side = self._predictor.image_size
        squares = np.zeros((self._size, side, side, 3), np.uint8)
        paths = self._paths[images.start : images.stop]
        names = [inputs.shown(path) for path in paths]
        errors: list[str | None] = [None] * len(paths)
        with inputs.Reader() as reader:
            for row, (path, name) in enumerate(zip(paths, names, strict=True)):
                try:
                    squares[row] = self._predictor.square(reader.read(path, name))
                except ImageError as error:
                    errors[row] = error.reason
        return _Read(names, errors, squares)


def _rows(batch: _Read, judged: Judged) -> Rows:
    found, distance = jax.device_get(judged)
    found = found[: len(batch.names)]
    broken = np.flatnonzero(~np.isfinite(found).all(axis=1))
    if broken.size:
        raise UserError(
            f"{batch.names[broken[0]]}: the model gives no numbers; the weights of this run are "
            "broken, train it again"
        )
    if distance is not None:
        distance = distance[: len(batch.names)]
    return Rows(batch.names, found, batch.errors, distance)


def _announce(rows: Rows, failed: int) -> int:
    """Names bad files in the log, the first few; returns how many there are now."""
    for name, error in zip(rows.image, rows.error, strict=True):
        if error is not None:
            failed += 1
            if failed <= _NAMED:
                logging.warning("%s: %s", name, error)
            elif failed == _NAMED + 1:
                logging.warning("further bad files are only in the column `error`")
    return failed
