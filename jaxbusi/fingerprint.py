"""What tells a trained run, and what was made with it, from others."""

import hashlib
from pathlib import Path
from typing import Any

import jax
import numpy as np

from jaxbusi import __version__
from jaxbusi import workdir as workdirs
from jaxbusi.state import Tree
from jaxbusi.train import TrainedRun


def fingerprint(run: TrainedRun, workdir: Path) -> dict[str, Any]:
    """Returns the version of jaxbusi, the step, and sha256 of the weights and of the settings.

    Args:
      run: as it is applied.
      workdir: that it was read from.

    Raises:
      UserError: config.json cannot be read.
    """
    return {
        "jaxbusi": __version__,
        "checkpoint_step": run.step,
        "weights_sha256": weights_sha256(run.variables),
        "config_sha256": workdirs.config_sha256(workdir),
    }


def weights_sha256(variables: Tree) -> str:
    """Returns the hexadecimal sha256 of a model's weights: names, types, shapes and bytes."""
    hashed = hashlib.sha256()
    for path, leaf in jax.tree.leaves_with_path(variables):
        array = np.asarray(jax.device_get(leaf))
        hashed.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}\n".encode())
        hashed.update(array.tobytes())
    return hashed.hexdigest()
