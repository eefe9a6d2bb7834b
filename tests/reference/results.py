"""What is compared, and its summary that is small enough to be recorded."""

import dataclasses
import pathlib
import zlib
from collections.abc import Iterator
from typing import Any

import numpy as np

from tests.reference.cases import Case

RECORDED = pathlib.Path(__file__).parents[1] / "recorded"
PROJECTIONS = 4

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Result:
    """Outputs of one case, from either library, in Flax's names and layouts.

    Attributes:
      logits: [B, 3].
      auxiliary: [2, B, 3] in GoogLeNet's training, else [0, B, 3].
      gradients: path to the gradient of the loss (mean cross-entropy, auxiliary heads times 0.3).
      statistics: path to the running statistics after the step.
    """

    logits: np.ndarray
    auxiliary: np.ndarray
    gradients: Arrays
    statistics: Arrays

    def summary(self) -> "Result":
        """The same with f64[1 + PROJECTIONS] in place of every gradient and statistic."""
        return Result(
            self.logits,
            self.auxiliary,
            {path: project(path, array) for path, array in self.gradients.items()},
            {path: project(path, array) for path, array in self.statistics.items()},
        )


def flatten(tree: dict[str, Any]) -> Arrays:
    """Nested dictionaries to one, its keys joined by slashes and sorted."""

    def leaves(node: dict[str, Any], path: str) -> Iterator[tuple[str, np.ndarray]]:
        for key in sorted(node):
            value = node[key]
            if isinstance(value, dict):
                yield from leaves(value, f"{path}{key}/")
            else:
                yield f"{path}{key}", np.asarray(value)

    return dict(leaves(tree, ""))


def project(path: str, array: np.ndarray) -> np.ndarray:
    """A tensor's norm, and its dot products with vectors of random signs that belong to `path`.

    Such a product with a difference d is about as large as |d|; so the agreement of a few of them
    bounds the relative error of the whole tensor.
    """
    values = array.astype(np.float64).ravel()
    rng = np.random.default_rng(zlib.crc32(path.encode()))
    signs = rng.integers(0, 2, (PROJECTIONS, values.size), dtype=np.int8) * 2.0 - 1.0
    return np.concatenate([[np.linalg.norm(values)], signs @ values])


def full_errors(actual: Arrays, expected: Arrays) -> tuple[Arrays, Arrays]:
    """Of whole tensors: the norm of each difference [1], and the norm of each expected one."""
    assert actual.keys() == expected.keys()
    differences = {}
    for path in expected:
        assert actual[path].shape == expected[path].shape, path
        difference = actual[path].astype(np.float64) - expected[path].astype(np.float64)
        differences[path] = np.linalg.norm(difference).reshape(1)
    return differences, {path: np.asarray(np.linalg.norm(a)) for path, a in expected.items()}


def summary_errors(actual: Arrays, expected: Arrays) -> tuple[Arrays, Arrays]:
    """The same of summaries, where each projection stands for the norm: [1 + PROJECTIONS]."""
    assert actual.keys() == expected.keys()
    differences = {path: np.abs(actual[path] - expected[path]) for path in expected}
    return differences, {path: array[0] for path, array in expected.items()}


def weight_sums(case: Case) -> np.ndarray:
    """f64[2] over all seeded weights: tells whether this NumPy still draws the recorded ones."""
    arrays = case.state().values()
    return np.sum([(a.sum(dtype=np.float64), np.abs(a).sum(dtype=np.float64)) for a in arrays], 0)


def write_summary(case: Case, summary: Result) -> None:
    np.savez_compressed(
        RECORDED / f"{case.name}.npz",
        logits=summary.logits,
        auxiliary=summary.auxiliary,
        gradient_paths=np.asarray(list(summary.gradients)),
        gradients=np.asarray(list(summary.gradients.values())),
        statistic_paths=np.asarray(list(summary.statistics), dtype=np.str_),
        statistics=np.asarray(list(summary.statistics.values())),
        weight_sums=weight_sums(case),
    )


def read_summary(case: Case) -> tuple[Result, np.ndarray]:
    """The recorded summary, and the `weight_sums` that belong to it."""
    with np.load(RECORDED / f"{case.name}.npz") as file:
        summary = Result(
            file["logits"],
            file["auxiliary"],
            dict(zip(file["gradient_paths"].tolist(), file["gradients"], strict=True)),
            dict(zip(file["statistic_paths"].tolist(), file["statistics"], strict=True)),
        )
        return summary, file["weight_sums"]
