"""Features of branches that are frozen for good: computed once for every view that a run uses."""

import contextlib
import functools
import hashlib
import io
import logging
import time
import zipfile
import zlib
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
    """Computes the features of `settings.cached_branches`, or reads what an earlier run computed.

    Args:
      model: a `Classifier`.
      variables: its weights; the frozen branches' are the same at every step of a run.
      mesh: the devices.
      settings: of the run.
      parts: the images.
      folder: where they are kept; one process alone keeps them.

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
    compute = functools.partial(_compute, functools.partial(step, variables), mesh, settings)
    kept = functools.partial(_kept, _fingerprint(model, variables, settings.cached_branches))
    training = [
        kept(folder / f"train_view{view}.npz", functools.partial(compute, parts["train"], view))
        for view in range(settings.data.views)
    ]
    others = {
        name: kept(folder / f"{name}.npz", functools.partial(compute, part, None))
        for name, part in parts.parts.items()
        if name != "train"
    }
    return Features(training, others)


def _branch_features(
    model: nn.Module, branches: tuple[str, ...], variables: Tree, images: jax.Array
) -> dict[str, jax.Array]:
    output: Any = model.apply(variables, images, train=False)
    return {name: output.features[name] for name in branches}


def _fingerprint(model: nn.Module, variables: Tree, branches: tuple[str, ...]) -> str:
    """What the features depend on beside the settings of a run: frozen weights, normalisation."""
    digest = hashlib.sha256(repr(getattr(model, "normalization", ())).encode())
    for kind, tree in sorted(variables.items()):
        for branch in branches:
            for path, array in jax.tree.leaves_with_path(tree.get(branch, {})):
                digest.update(f"{kind} {branch} {jax.tree_util.keystr(path)}".encode())
                digest.update(np.ascontiguousarray(jax.device_get(array)).tobytes())
    return digest.hexdigest()


def _kept(fingerprint: str, path: Path, compute: Callable[[str], Columns]) -> Columns:
    """Reads the file if it is whole and of these weights, or computes and writes it."""
    alone = jax.process_count() == 1
    if alone and (columns := _read(path, fingerprint)) is not None:
        return columns
    start = time.monotonic()
    columns = compute(path.stem)
    count = len(next(iter(columns.values())))
    logging.info(
        "%s: features of %d images by %s in %.0f s",
        *(path.stem, count, " and ".join(columns), time.monotonic() - start),
    )
    if alone:
        buffer = io.BytesIO()
        np.savez(buffer, allow_pickle=False, fingerprint=np.array(fingerprint), **columns)
        atomic.write_bytes(path, buffer.getvalue())
    return columns


def _read(path: Path, fingerprint: str) -> Columns | None:
    if not path.exists():
        return None
    try:
        with np.load(path, allow_pickle=False) as file:
            columns = dict(file)
        if str(columns.pop("fingerprint")) == fingerprint:
            return columns
    except (OSError, ValueError, KeyError, EOFError, zipfile.BadZipFile, zlib.error):
        pass
    logging.warning("%s is damaged or of other weights; it is computed again", path)
    return None


def _compute(
    step: Callable[[jax.Array], Columns],
    mesh: Mesh,
    settings: Settings,
    part: Part,
    view: int | None,
    name: str,
) -> Columns:
    batches = pipeline.eval_batches(
        part.store,
        part.samples,
        settings.data.augment,
        seed=settings.seed,
        batch_size=settings.batch_size,
        view=view,
        shard=(jax.process_index(), jax.process_count()),
    )
    found: list[Columns] = []
    active = jax.process_index() == 0
    total = len(part.samples)
    with progress_bar(total, f"features of {name}", "image", active=active) as bar:
        for host, device in pipeline.to_device(batches, mesh):
            found.append(jax.device_get(step(device["image"])))
            bar.update(np.count_nonzero(host["mask"]) * jax.process_count())
    return {
        branch: np.concatenate([rows[branch] for rows in found])[: len(part.samples)]
        for branch in found[0]
    }
