"""What is kept of a step whose loss or gradient is not finite, for whoever looks for the cause."""

import logging
import math
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from jaxbusi import atomic
from jaxbusi.data.parts import Part
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.steps import StepReport

FILE = "diagnosis.json"
_NAMED = 8
"""Images that the message names; the file has them all."""


def broken_step(
    workdir: Path,
    step: int,
    learning_rate: float,
    part: Part,
    index: np.ndarray,
    report: StepReport,
) -> UserError:
    """Writes diagnosis.json and returns the error that ends the run.

    The file holds step, learning_rate, loss, gradient_norm, gradient_norms of each branch and the
    head, and images: name, copy, label and loss of each of the batch. What is not finite is there
    as the text `nan`, `inf` or `-inf`, as JSON has no numbers for them.

    Args:
      workdir: of the run.
      step: that broke.
      learning_rate: of that step.
      part: the training part.
      index: int32[B / processes], rows of the part's samples, this process's share of the batch.
      report: of the step.
    """
    if jax.process_count() > 1:
        index = np.asarray(multihost_utils.process_allgather(index, tiled=True))
    report = jax.device_get(report)
    images = [
        {
            "image": part.store.records[part.samples.image[row]].name,
            "copy": int(part.samples.copy[row]),
            "label": CLASSES[part.samples.label[row]],
            "loss": _jsonable(loss),
        }
        for row, loss in zip(index.tolist(), report.example_loss.tolist(), strict=True)
    ]
    content = {
        "step": step,
        "learning_rate": learning_rate,
        "loss": _jsonable(report.loss),
        "gradient_norm": _jsonable(report.gradient_norm),
        "gradient_norms": {name: _jsonable(norm) for name, norm in report.gradient_norms.items()},
        "images": images,
    }
    kept = f"{workdir / FILE} has more"
    if jax.process_index() == 0:
        try:
            atomic.write_json(workdir / FILE, content)
        except UserError as error:  # the cause of the end is the step, not the full disk
            logging.error("%s", error)
            kept = f"{FILE} could not be written"
    return UserError(f"{_what(content)}; {kept}; {_HINT}")


_HINT = (
    "the run stopped and its checkpoints are intact: look at these images, or start in a new "
    "--workdir with a lower config.optim.learning_rate"
)


def _what(content: dict[str, Any]) -> str:
    images = content["images"]
    broken = [image for image in images if isinstance(image["loss"], str)] or images
    names = ", ".join(image["image"] for image in broken[:_NAMED])
    more = f" and {len(broken) - _NAMED} more" if len(broken) > _NAMED else ""
    step, rate = content["step"], content["learning_rate"]
    if isinstance(content["loss"], str):
        what = f"the loss of step {step} is {content['loss']}"
    else:
        norms = content["gradient_norms"].items()
        where = " and ".join(name for name, norm in norms if isinstance(norm, str)) or "all"
        what = f"the gradient of step {step} is {content['gradient_norm']} (in {where})"
    return f"{what}, learning rate {rate:g}, images {names}{more}"


def _jsonable(value: Any) -> float | str:
    value = float(value)
    return value if math.isfinite(value) else str(value)
