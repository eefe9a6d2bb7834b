"""Where the weights of a run come from when it starts."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path

import jax
import jax.numpy as jnp

from jaxbusi import workdir as workdirs
from jaxbusi.checkpoints import Checkpoints
from jaxbusi.errors import UserError
from jaxbusi.settings import Settings
from jaxbusi.state import TrainState, Tree
from jaxbusi.weights.load import BranchWeights, Origin, check_same_shapes, load_branch


def public_weights(
    settings: Settings, workdir: Path
) -> tuple[dict[str, Origin], dict[str, BranchWeights]]:
    """Reads the files of `config.weights`, and what they ask of the model.

    A run that goes on, or starts from another run, needs only the origins, which that run recorded.

    Returns:
      Origins and weights, by branch.

    Raises:
      UserError: a file cannot be read, or is for another branch or size.
    """
    if settings.init_from:
        other = Path(settings.init_from)
        if not (other / "checkpoints").is_dir():
            raise UserError(f"config.init_from={other} is no workdir: it has no checkpoints folder")
        return workdirs.read_origins(other), {}
    if (workdir / "config.json").exists() and _holds_checkpoint(workdir / "checkpoints"):
        return workdirs.read_origins(workdir), {}
    weights = {
        branch: load_branch(
            path, branch, vit=settings.model.vit, image_size=settings.data.augment.crop
        )
        for branch, path in dataclasses.asdict(settings.weights).items()
        if path
    }
    return {branch: loaded.origin for branch, loaded in weights.items()}, weights


def first_state(
    state: TrainState,
    checkpoints: Checkpoints,
    settings: Settings,
    pretrained: Mapping[str, BranchWeights],
) -> TrainState:
    """Finds where the weights come from; the first that applies decides.

    1. A checkpoint of this workdir: the run goes on.
    2. `config.init_from`: weights and batch statistics of another run, a fresh optimizer.
    3. `config.weights`: public weights of single branches, the rest at random.
    4. Random weights, with a warning.

    Args:
      state: with random weights.
      checkpoints: of the workdir.
      settings: of the run.
      pretrained: from `public_weights`.

    Raises:
      UserError: weights that do not fit the model.
    """
    found = checkpoints.newest(functools.partial(checkpoints.restore, state))
    if found is not None:
        step, restored = found
        logging.info("going on from step %d of this workdir", step)
        return restored
    if settings.init_from:
        return _weights_of_another_run(state, Path(settings.init_from))
    random = [name for name in settings.model.branches if name not in pretrained]
    if random:
        logging.warning(
            "the weights of %s start at random, from where a few hundred images train no network "
            "to what the paper reports; config.weights.%s starts from public weights",
            " and ".join(random),
            random[0],
        )
    return _with_variables(state, _merge(state.variables(), pretrained)) if pretrained else state


def _holds_checkpoint(folder: Path) -> bool:
    if not folder.is_dir():
        return False
    checkpoints = Checkpoints(folder, read_only=True)
    try:
        return checkpoints.latest_step() is not None
    finally:
        checkpoints.close()


def _weights_of_another_run(state: TrainState, folder: Path) -> TrainState:
    other = Checkpoints(folder / "checkpoints", read_only=True)
    try:
        found = other.newest(functools.partial(other.restore_variables, state.variables()))
        if found is None:
            raise UserError(f"config.init_from={folder} holds no finished checkpoint")
        step, variables = found
    finally:
        other.close()
    logging.info("weights from step %d of %s", step, folder)
    return _with_variables(state, variables)


def _merge(variables: Tree, pretrained: Mapping[str, BranchWeights]) -> Tree:
    """Puts branches' weights in place, with the shardings of what was there."""
    merged = {kind: dict(branches) for kind, branches in variables.items()}
    for branch, weights in pretrained.items():
        ours = {kind: tree[branch] for kind, tree in variables.items() if branch in tree}
        check_same_shapes(
            ours,
            weights.variables,
            # Public GoogLeNets have auxiliary heads that nobody trained, for 1000 classes.
            optional=r"\w+/aux[12]/.*" if branch == "googlenet" else "",
            what=f"config.weights.{branch} ({weights.origin.format})",
        )
        for kind, old in ours.items():
            shardings = jax.tree.map(lambda array: array.sharding, old)
            put = jax.jit(lambda tree: tree, out_shardings=shardings)
            merged[kind][branch] = put({**old, **weights.variables[kind]})
    return merged


def _with_variables(state: TrainState, variables: Tree) -> TrainState:
    # The average gets buffers of its own: a donated state may hold no buffer twice.
    average = None if state.average is None else jax.tree.map(jnp.copy, variables)
    return dataclasses.replace(state, **variables, average=average)
