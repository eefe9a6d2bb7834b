"""calibration.json: the temperature that evaluation fitted on a run's validation part.

It is read without the libraries of the evidence, which take seconds to import.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jaxbusi import atomic
from jaxbusi.errors import UserError
from jaxbusi.workdir import evaluate_again

NAME = "calibration.json"


def write(workdir: Path, fitted: Mapping[str, Any], step: int) -> None:
    """Writes the file, where there was a part to fit on.

    Args:
      workdir: of the run.
      fitted: `calibration` of results.json: temperature, fitted_on, images, at_edge.
      step: of the checkpoint that was evaluated.
    """
    if fitted["temperature"] is not None:
        atomic.write_json(workdir / NAME, {**fitted, "checkpoint_step": step})


def read(workdir: Path, step: int) -> tuple[float | None, str]:
    """Reads the temperature for the weights of a checkpoint.

    Args:
      workdir: of the run.
      step: of the checkpoint that is applied.

    Returns:
      The temperature, or None where there is none that fits; and in words, what it was fitted on or
      why there is none.

    Raises:
      UserError: the file is there and cannot be read.
    """
    path = workdir / NAME
    try:
        content = json.loads(path.read_bytes())
        temperature = content["temperature"]
        if not (isinstance(temperature, float) and math.isfinite(temperature) and temperature > 0):
            raise ValueError(f"the temperature is {temperature!r}")
        if content["checkpoint_step"] != step:
            was = f"{NAME} is of step {content['checkpoint_step']}, the weights are of step {step}"
            return None, f"{was}; {evaluate_again(workdir)}"
        if content["at_edge"]:
            return (
                None,
                f"no temperature fits the {content['images']} images of the validation part",
            )
        return (
            temperature,
            f"fitted on {content['images']} images of the {content['fitted_on']} part",
        )
    except FileNotFoundError:
        return None, (
            "the run has no validation part (config.data.validation_fraction), or was evaluated "
            f"before there was a {NAME}; for the latter {evaluate_again(workdir)}"
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise UserError(f"{path} cannot be read ({error}); {evaluate_again(workdir)}") from error
