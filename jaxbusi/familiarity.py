"""How far an image is from what a run was trained on: a distance between features.

The distance is Mahalanobis' (Lee et al., NeurIPS 2018), to the nearest class: the features that
enter the model's head are compared with the mean of each class over the training part, in units of
how much the images of a class differ among themselves. The covariance that says so is shared by the
classes and shrunk (Ledoit and Wolf, 2004), since there may be fewer images than features. Its unit
is the distance beyond which a twentieth of the validation part lies, which was not trained on: 1 is
the limit. Fitted on the training and validation parts alone.

    familiarity.npz   means f32[C, d], whitening f32[d, d], and what `Familiarity` has besides
"""

import dataclasses
import functools
import hashlib
import io
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbusi import atomic
from jaxbusi.errors import UserError
from jaxbusi.workdir import evaluate_again

NAME = "familiarity.npz"

SHARE = 0.95
"""Of the validation part, that is within the limit."""

LEAST = 20
"""Fewest images of the validation part: of fewer, no image is a twentieth."""

MOST_TRAINING = 20_000
"""Most training images that it is fitted on, evenly taken: more change nothing but the time."""


@dataclasses.dataclass(frozen=True)
class Familiarity:
    """What distances are measured by.

    Attributes:
      means: float32[C, d], of the features of each class.
      whitening: float32[d, d], W such that the length of (x - mean) W is the distance.
      training: how many images it was fitted on.
      validation: how many images the limit was set on.
    """

    means: np.ndarray
    whitening: np.ndarray
    training: int
    validation: int

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """What `distances` takes."""
        return self.means, self.whitening

    @property
    def sha256(self) -> str:
        """Hexadecimal, of the numbers that distances depend on."""
        return hashlib.sha256(self.means.tobytes() + self.whitening.tobytes()).hexdigest()


def distances(features: jax.Array, means: jax.Array, whitening: jax.Array) -> jax.Array:
    """Returns the distance of each image to the nearest class, 1 at the limit.

    Args:
      features: float32[B, d], of `steps.joined`.
      means: float32[C, d].
      whitening: float32[d, d].

    Returns:
      float32[B], from 0.

    Raises:
      UserError: they are of another number of features.
    """
    if features.shape[-1] != means.shape[-1]:
        raise UserError(
            f"{NAME} is about {means.shape[-1]} features, the run has {features.shape[-1]}: it is "
            f"another run's; {evaluate_again(Path('RUN'))}"
        )
    # Whitened first: differences of large numbers are taken where they are of one size. There
    # accelerators, which round the factors of a product unless told not to, would leave noise.
    whitened = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)
    away = whitened(features, whitening)[:, None] - whitened(means, whitening)[None]
    return jnp.sqrt(jnp.min(jnp.sum(away**2, axis=-1), axis=1))


def fit(training: np.ndarray, labels: np.ndarray, validation: np.ndarray) -> Familiarity:
    """Fits the distance.

    Args:
      training: float32[N, d], features of the images that were trained on.
      labels: int[N], their classes.
      validation: float32[M, d], features of images that were not.
    """
    from sklearn.covariance import LedoitWolf  # takes a second to import

    known = training.astype(np.float64)
    classes, row = np.unique(labels, return_inverse=True)
    means = np.stack([known[row == index].mean(axis=0) for index in range(len(classes))])
    shrunk = LedoitWolf(assume_centered=True).fit(known - means[row])
    # Features that never change, as units that are never active, may leave no covariance at all.
    values, vectors = np.linalg.eigh(shrunk.covariance_)
    whitening = vectors / np.sqrt(np.maximum(values, _least_variance(values)))
    raw = np.asarray(
        distances(*(jnp.asarray(x, jnp.float32) for x in (validation, means, whitening)))
    )
    limit = float(np.quantile(raw, SHARE))
    unit = whitening / (limit if limit > 0 else 1.0)
    return Familiarity(
        means.astype(np.float32), unit.astype(np.float32), len(training), len(validation)
    )


def _least_variance(values: np.ndarray) -> float:
    """A millionth of the largest, which float32 still tells from it."""
    return max(float(values[-1]) * 1e-6, 1e-12)


def write(workdir: Path, fitted: Familiarity, step: int) -> None:
    """Writes familiarity.npz for the weights of a checkpoint."""
    buffer = io.BytesIO()
    np.savez(
        buffer,
        allow_pickle=False,
        **dataclasses.asdict(fitted),
        checkpoint_step=np.int64(step),
    )
    atomic.write_bytes(workdir / NAME, buffer.getvalue())


def read(workdir: Path, step: int) -> tuple[Familiarity | None, str]:
    """Reads familiarity.npz.

    Args:
      workdir: of the run.
      step: of the checkpoint that is applied.

    Returns:
      What is there, or None where there is none that fits; and in words, what it was fitted on or
      why there is none.

    Raises:
      UserError: the file is there and cannot be read.
    """
    path = workdir / NAME
    try:
        # Opened here: np.load leaves open what it cannot read.
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            content = {name: _checked(name, file[name]) for name in _SHAPES}
    except FileNotFoundError:
        return None, (
            f"the run has no validation part of {LEAST} images (config.data.validation_fraction), "
            f"or was evaluated before there was a {NAME}; for the latter {evaluate_again(workdir)}"
        )
    except Exception as error:  # damaged bytes make readers fail in every way
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"{path} cannot be read ({reason}); {evaluate_again(workdir)}") from error
    was = int(content.pop("checkpoint_step"))
    if was != step:
        why = f"{NAME} is of step {was}, the weights are of step {step}"
        return None, f"{why}; {evaluate_again(workdir)}"
    found = Familiarity(
        content["means"],
        content["whitening"],
        int(content["training"]),
        int(content["validation"]),
    )
    if found.whitening.shape != 2 * found.means.shape[1:]:
        raise UserError(
            f"{path} cannot be read (arrays that do not fit); {evaluate_again(workdir)}"
        )
    return found, (
        f"fitted on {found.training} images of the training part, the limit on {found.validation} "
        "of the validation part"
    )


_SHAPES: dict[str, tuple[int, Any]] = {
    "means": (2, np.float32),
    "whitening": (2, np.float32),
    "training": (0, np.int64),
    "validation": (0, np.int64),
    "checkpoint_step": (0, np.int64),
}
"""Of each array in the file: how many axes it has, and its type."""


def _checked(name: str, array: np.ndarray) -> np.ndarray:
    axes, dtype = _SHAPES[name]
    if array.ndim != axes or array.dtype != dtype or not np.isfinite(array).all():
        raise ValueError(f"{name} is no array as it is written")
    return array
