"""Saving a run and finding it again, through orbax."""

import errno
import logging
import shutil
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeVar

import jax
import orbax.checkpoint as ocp
from etils import epath
from jax.experimental import multihost_utils
from orbax.checkpoint import checkpoint_managers

from jaxbusi.checksums import changed, checksums
from jaxbusi.errors import UserError
from jaxbusi.state import TrainState, Tree

_T = TypeVar("_T")

DAMAGED = ".damaged"
"""Behind the step in the name of a checkpoint that was set aside."""


class CheckpointError(UserError):
    """A checkpoint that is damaged, or not of this model."""


class Checkpoints:
    """The checkpoints of one workdir: written in the background, latest and best kept.

    A step's folder holds several items, so that inference reads no optimizer state: `weights`
    (parameters and batch statistics), `average` (their moving average, where there is one),
    `training` (step, optimizer state, sums of the training log) and `checksums` of all their
    arrays: orbax restores a file with a flipped byte without a word.
    """

    def __init__(
        self, directory: Path, *, keep: int = 1, best: bool = False, read_only: bool = False
    ):
        """Opens or creates a folder of checkpoints.

        Args:
          directory: the folder.
          keep: how many of the latest to keep.
          best: whether to keep the one with the least validation loss besides.
          read_only: neither creates the folder nor cleans up what a dead run left in it.
        """
        self._read_only = read_only
        self._directory = directory.absolute()  # orbax refuses relative paths only when it saves
        policies = [
            checkpoint_managers.LatestN(n=keep),
            checkpoint_managers.BestN(
                get_metric_fn=_goodness,
                n=1,
                keep_checkpoints_without_metrics=False,
            ),
        ]
        self._manager = ocp.CheckpointManager(
            self._directory,
            options=ocp.CheckpointManagerOptions(
                best_fn=_goodness if best else None,
                preservation_policy=checkpoint_managers.AnyPreservationPolicy(policies),
                create=not read_only,
                read_only=read_only,
                cleanup_tmp_directories=not read_only,
            ),
        )

    def save(self, state: TrainState, *, validation_loss: float | None = None) -> None:
        """Starts saving a state in the background; waits for an earlier save to end first.

        Args:
          state: what to save; it may be donated as soon as this returns.
          validation_loss: of these weights on the validation part, by which the best is chosen.

        Raises:
          UserError: this or an earlier save failed, for instance on a full disk.
        """
        step = int(state.step)
        items: dict[str, Any] = {
            "weights": state.variables(),
            "training": {
                "step": state.step,
                "opt_state": state.opt_state,
                "metrics": state.metrics,
            },
        }
        if state.average is not None:
            items["average"] = state.average
        arguments: dict[str, Any] = {
            name: ocp.args.StandardSave(item) for name, item in items.items()
        }
        sums = {name: checksums(item) for name, item in items.items()}
        arguments["checksums"] = ocp.args.JsonSave(sums)
        metrics = None if validation_loss is None else {"loss": validation_loss}
        try:
            self._manager.wait_until_finished()
            if step in self._manager.all_steps():
                return
            _check_space(self._directory, items)
            self._manager.save(step, args=ocp.args.Composite(**arguments), metrics=metrics)
        except Exception as error:
            raise self._failed(error) from error

    def wait(self) -> None:
        """Waits until everything is on disk.

        Raises:
          UserError: a save failed.
        """
        try:
            self._manager.wait_until_finished()
        except Exception as error:
            raise self._failed(error) from error

    def close(self) -> None:
        """Ends the background threads; a save under way is finished first.

        An error of that save has come out of `save` or `wait`, or follows one that has.
        """
        try:
            self._manager.close()
        except Exception as error:
            logging.error("closing %s: %s", self._directory, _one_line(error))

    def latest_step(self) -> int | None:
        """Returns the step of the newest finished checkpoint, or None where there is none."""
        return self._manager.latest_step()

    def best_step(self) -> int | None:
        """Returns the step with the least validation loss, None where none was saved with one.

        Only a folder opened with `best` knows it.
        """
        return self._manager.best_step()

    def newest(self, restore: Callable[[int], _T]) -> tuple[int, _T] | None:
        """Restores the newest checkpoint that is whole, passing over damaged ones with a warning.

        Where the folder was not opened to be read only, those are set aside under another name, so
        that training may save their steps again.

        Args:
          restore: of a step, one of the two methods below.

        Returns:
          The step and what was restored, or None where there is no checkpoint at all.

        Raises:
          UserError: there are some, and none can be restored; nothing was changed.
        """
        passed: list[tuple[int, CheckpointError]] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            try:
                restored = restore(step)
            except CheckpointError as error:
                logging.warning("%s", error)
                passed.append((step, error))
                continue
            if passed:
                logging.warning("going back to the checkpoint of step %d, which is whole", step)
                if not self._read_only:
                    self._set_aside([step for step, _ in passed])
            return step, restored
        if passed:
            raise UserError(
                f"none of the {len(passed)} checkpoints in {self._directory} can be used; the "
                f"newest: {passed[0][1]}; nothing was changed: put a whole copy back, or name "
                "another --workdir"
            )
        return None

    def restore(self, like: TrainState, step: int) -> TrainState:
        """Returns the state saved at a step, with the shardings of `like`.

        Raises:
          CheckpointError: it is damaged, or not of this model; the message names it.
        """
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items: dict[str, Any] = {
            "weights": abstract.variables(),
            "training": {
                "step": abstract.step,
                "opt_state": abstract.opt_state,
                "metrics": abstract.metrics,
            },
        }
        if like.average is not None:
            items["average"] = abstract.average
        restored = self._restore(items, step)
        return TrainState(
            **restored["weights"], **restored["training"], average=restored.get("average")
        )

    def restore_variables(self, like: Tree, step: int) -> Tree:
        """Returns the variables that evaluation applies: the moving average where one was saved.

        Args:
          like: {'params', 'batch_stats'}, arrays or their shapes with shardings.
          step: of the checkpoint.

        Raises:
          CheckpointError: it is damaged, or not of this model; the message names it.
        """
        name = "average" if (self._directory / str(step) / "average").is_dir() else "weights"
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        return self._restore({name: abstract}, step)[name]

    def _restore(self, items: dict[str, Any], step: int) -> Any:
        folder = self._directory / str(step)
        arguments: dict[str, Any] = {
            name: ocp.args.StandardRestore(item) for name, item in items.items()
        }
        arguments["checksums"] = ocp.args.JsonRestore()
        try:
            for name, item in items.items():
                _check_shapes(item, folder / name)
            restored = self._manager.restore(step, args=ocp.args.Composite(**arguments))
            expected = {name: dict(restored["checksums"][name]) for name in items}
        except Exception as error:  # the readers raise whatever the damage leads to
            raise CheckpointError(
                f"checkpoint {folder} cannot be restored into this model: {_one_line(error)}"
            ) from error
        for name, sums in expected.items():
            wrong = changed(sums, checksums(restored[name]))
            if wrong:
                more = f" and {len(wrong) - 1} more" if len(wrong) > 1 else ""
                raise CheckpointError(
                    f"checkpoint {folder} is damaged: {name}/{wrong[0]}{more} is not what was saved"
                )
        return restored

    def _set_aside(self, steps: list[int]) -> None:
        if jax.process_index() == 0:
            for step in steps:
                folder = self._directory / str(step)
                aside = folder.with_name(f"{step}{DAMAGED}")
                if aside.exists():  # of the same step, damaged before
                    shutil.rmtree(aside)
                folder.rename(aside)
                logging.warning("%s is now %s; delete it when you have looked at it", folder, aside)
        multihost_utils.sync_global_devices("damaged checkpoints are set aside")
        self._manager.reload()

    def _failed(self, error: Exception) -> UserError:
        try:
            kept = self._manager.all_steps(read=True)
        except OSError:
            kept = []
        logging.debug("saving failed", exc_info=error)
        good = f"step {max(kept)} is intact" if kept else "none was saved before"
        return UserError(
            f"a checkpoint could not be saved in {self._directory} ({_one_line(error)}); {good}; "
            "free space or mend the folder and run the same command again"
        )


def _check_shapes(like: Tree, folder: Path) -> None:
    """Refuses other arrays than those wanted, before any is read.

    Orbax refuses them too, but leaves behind the reads of others that it has begun.
    """
    handler = ocp.StandardCheckpointHandler()
    try:
        stored = _shapes(handler.metadata(epath.Path(folder)).tree)
    finally:
        handler.close()
    wanted = _shapes(like)
    for name in sorted({*stored, *wanted}):
        if stored.get(name) != wanted.get(name):
            raise ValueError(
                f"{name} has the shape {stored.get(name, '(absent)')}, the model's has "
                f"{wanted.get(name, '(absent)')}"
            )


def _shapes(tree: Tree) -> dict[str, tuple[int, ...]]:
    leaves = jax.tree.leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path, simple=True, separator="/"): tuple(leaf.shape)
        for path, leaf in leaves
    }


def _check_space(directory: Path, items: dict[str, Any]) -> None:
    """Refuses a save that the disk has no room for, before anything is written."""
    needed = sum(leaf.nbytes for leaf in jax.tree.leaves(items))
    try:
        free = shutil.disk_usage(directory).free
    except OSError:  # not a local folder
        return
    if free < needed:
        raise OSError(
            errno.ENOSPC, f"{needed / 2**20:.1f} MiB are needed, {free / 2**20:.1f} MiB are free"
        )


class _Quiet(logging.Filter):
    """Drops what orbax says of its inner life, and the tracebacks of errors `wait` raises again."""

    def filter(self, record: logging.LogRecord) -> bool:
        told = record.levelno == logging.WARNING and "Type handler" not in record.getMessage()
        return "orbax" not in record.pathname or told


logging.getLogger("absl").addFilter(_Quiet())

# One device writes a replicated array. Orbax would have each write a slice of it, for which it
# compiles a program for every shape: for a model of megabytes that takes longer than the writing.
ocp.type_handlers.register_type_handler(
    jax.Array, ocp.type_handlers.ArrayHandler(use_replica_parallel=False), override=True
)


def _goodness(metrics: Mapping[str, float]) -> float:
    return -metrics["loss"]


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__
