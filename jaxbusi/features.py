"""Features of branches that are frozen for good: computed once for every view that a run uses."""

import contextlib
import functools
import hashlib
import io
import logging
import time
from collections.abc import Callable, Generator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from flax import linen as nn
from jax.sharding import Mesh

from jaxbusi import atomic
from jaxbusi.data import pipeline
from jaxbusi.data.parts import Part, PartSet
from jaxbusi.logs import progress_bar
from jaxbusi.settings import Settings
from jaxbusi.state import Tree, batch_sharding, replicated

Columns = dict[str, np.ndarray]
"""By branch: f32[N, d], a row for each sample."""

_KEYS, _FINGERPRINT = "keys", "fingerprint"  # beside the branches' names in the file
_ITSELF = -1
"""In the place of a view: the image as it is, without augmentation."""


class Features:
    """What frozen branches make of the images of a run.

    A batch that it is attached to carries their rows under the branches' names, and the model then
    leaves these branches out.
    """

    def __init__(self, training: list[Columns], parts: dict[str, Columns]):
        """Takes the features of each view of the training part, and of the other parts by name."""
        # One array [views, N, d] a branch, so that a batch is one look-up.
        self._training = {name: np.stack([view[name] for view in training]) for name in training[0]}
        self._parts = parts

    @property
    def branches(self) -> frozenset[str]:
        """The branches that need not look at the images."""
        return frozenset(self._training)

    def attach(self, batches: Generator[pipeline.Batch]) -> Generator[pipeline.Batch]:
        """Adds the features to batches of `pipeline.train_batches`."""
        with contextlib.closing(batches):
            for batch in batches:
                place = batch["view"], batch["index"]
                yield batch | {name: column[place] for name, column in self._training.items()}

    def attach_to(
        self, part: str, batches: Generator[pipeline.Batch], rows: np.ndarray
    ) -> Generator[pipeline.Batch]:
        """Adds the features to batches of `pipeline.eval_batches` over int[M] rows of a part."""
        columns = {name: column[rows] for name, column in self._parts[part].items()}
        with contextlib.closing(batches):
            for batch in batches:  # padding has the index -1, and is masked
                yield batch | {name: column[batch["index"]] for name, column in columns.items()}


def compute_features(
    model: nn.Module,
    variables: Tree,
    mesh: Mesh,
    settings: Settings,
    parts: PartSet,
    folder: Path,
) -> Features | None:
    """Computes the features of `settings.cached_branches` that are not known from earlier runs.

    What is seen of an image depends on the seed, its name, the number of the copy and the view,
    and not on the part that it is in. So the runs of a study, which divide the same images in many
    ways, share a folder and compute each row once.

    Args:
      model: a `Classifier`.
      variables: its weights; the frozen branches' are the same at every step of a run.
      mesh: the devices.
      settings: of the run.
      parts: the images.
      folder: where they are kept, a file for all that the same weights and augmentation gave; one
        process alone keeps them.

    Returns:
      The features, or None where no branch is frozen for good on views that repeat.
    """
    if not settings.cached_branches:
        return None
    whole, sharded = replicated(mesh), batch_sharding(mesh)
    step = jax.jit(
        functools.partial(_branch_features, model, settings.cached_branches),
        in_shardings=(whole, sharded),
        out_shardings=whole,
    )
    fingerprint = _fingerprint(model, variables, settings)
    known = _Known(folder / f"{fingerprint[:16]}.npz", fingerprint)
    look_up = functools.partial(_look_up, functools.partial(step, variables), mesh, settings, known)
    training = [look_up(parts["train"], view, "train") for view in range(settings.data.views)]
    # Of the training part too, where `familiarity` compares images with it.
    aside = () if "validation" in parts.parts else ("train",)
    others = {
        name: look_up(part, None, name) for name, part in parts.parts.items() if name not in aside
    }
    return Features(training, others)


def _branch_features(
    model: nn.Module, branches: tuple[str, ...], variables: Tree, images: jax.Array
) -> dict[str, jax.Array]:
    output: Any = model.apply(variables, images, train=False)
    return {name: output.features[name] for name in branches}


def _fingerprint(model: nn.Module, variables: Tree, settings: Settings) -> str:
    """What features depend on beside the image: weights, normalisation, precision, augmentation."""
    branches = settings.cached_branches
    content = (
        getattr(model, "normalization", ()),
        getattr(model, "pooling", ""),
        settings.compute_dtype,
        settings.seed,
        settings.data.augment,
    )
    digest = hashlib.sha256(repr(content).encode())
    for kind, tree in sorted(variables.items()):
        for branch in branches:
            for path, array in jax.tree.leaves_with_path(tree.get(branch, {})):
                digest.update(f"{kind} {branch} {jax.tree_util.keystr(path)}".encode())
                digest.update(np.ascontiguousarray(jax.device_get(array)).tobytes())
    return digest.hexdigest()


def _key(name: str, sha256: str, copy: int, view: int) -> bytes:
    """128 bits that stand for what is seen of an image."""
    text = f"{name} {sha256} {copy} {view}".encode("utf-8", "surrogateescape")
    return hashlib.blake2b(text, digest_size=16).digest()


def _keys(part: Part, view: int | None) -> list[bytes]:
    """Of each sample: what training sees in `view`, or evaluation sees where it is None."""
    store, samples = part.store, part.samples
    return [
        _key(
            store.records[image].name,
            store.sha256[image],
            copy,
            view if view is not None else 0 if copy else _ITSELF,
        )
        for image, copy in zip(samples.image.tolist(), samples.copy.tolist(), strict=True)
    ]


class _Known:
    """Rows by key, and the file that holds them."""

    def __init__(self, path: Path, fingerprint: str):
        self._path = path
        self._fingerprint = fingerprint
        self._alone = jax.process_count() == 1
        self._place: dict[bytes, int] = {}
        self._columns: Columns = {}
        if self._alone and path.exists():
            self._read()

    def missing(self, keys: list[bytes]) -> np.ndarray:
        """int[M], which of the keys have no row."""
        return np.array([row for row, key in enumerate(keys) if key not in self._place], np.int64)

    def take(self, keys: list[bytes]) -> Columns:
        """The rows of keys that are known."""
        places = [self._place[key] for key in keys]
        return {name: column[places] for name, column in self._columns.items()}

    def add(self, keys: list[bytes], columns: Columns) -> None:
        """Adds a row for each key and writes the file anew."""
        self._put(keys, columns)
        if self._alone:
            buffer = io.BytesIO()
            content = self._columns | {
                _FINGERPRINT: np.array(self._fingerprint),
                _KEYS: np.frombuffer(b"".join(self._place), np.uint8).reshape(-1, 16),
            }
            np.savez(buffer, allow_pickle=False, **content)
            atomic.write_bytes(self._path, buffer.getvalue())

    def _put(self, keys: list[bytes], columns: Columns) -> None:
        self._columns = {
            name: np.concatenate([self._columns[name], column]) if self._columns else column
            for name, column in columns.items()
        }
        self._place |= {key: place for place, key in enumerate(keys, len(self._place))}

    def _read(self) -> None:
        try:
            # Opened here: np.load leaves open what it cannot read.
            with self._path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
                columns = dict(file)
            keys = [row.tobytes() for row in columns.pop(_KEYS)]
            of_these_weights = str(columns.pop(_FINGERPRINT)) == self._fingerprint
            shapes = [np.shape(rows)[:1] for rows in columns.values()]  # none, of what is no array
            if of_these_weights and all(shape == (len(keys),) for shape in shapes):
                self._put(keys, columns)
                return
        except Exception as error:  # damaged bytes make readers fail in every way
            logging.debug("%s", error)
        logging.warning("%s is damaged or of other weights; it is computed again", self._path)


def _look_up(
    step: Callable[[jax.Array], Columns],
    mesh: Mesh,
    settings: Settings,
    known: _Known,
    part: Part,
    view: int | None,
    name: str,
) -> Columns:
    """The features of a part's samples, those that are not known computed."""
    keys = _keys(part, view)
    rows = known.missing(keys)
    if len(rows):
        start = time.monotonic()
        what = f"features of {name}" + ("" if view is None else f", view {view + 1}")
        columns = _compute(step, mesh, settings, part, rows, view, what)
        known.add([keys[row] for row in rows], columns)
        logging.info(
            "%s: %d of %d images by %s in %.0f s",
            *(what, len(rows), len(keys), " and ".join(columns), time.monotonic() - start),
        )
    return known.take(keys)


def _compute(
    step: Callable[[jax.Array], Columns],
    mesh: Mesh,
    settings: Settings,
    part: Part,
    rows: np.ndarray,
    view: int | None,
    what: str,
) -> Columns:
    """The features of int[M] rows of a part's samples."""
    batches = pipeline.eval_batches(
        part.store,
        part.samples.take(rows),
        settings.data.augment,
        seed=settings.seed,
        batch_size=settings.batch_size,
        view=view,
        shard=(jax.process_index(), jax.process_count()),
    )
    found: list[Columns] = []
    active = jax.process_index() == 0
    with progress_bar(len(rows), what, "image", active=active) as bar:
        for host, device in pipeline.to_device(batches, mesh):
            found.append(jax.device_get(step(device["image"])))
            bar.update(np.count_nonzero(host["mask"]) * jax.process_count())
    return {
        branch: np.concatenate([batch[branch] for batch in found])[: len(rows)]
        for branch in found[0]
    }
