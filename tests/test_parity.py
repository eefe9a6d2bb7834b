"""The models are those of PyTorch: the same weights give the same outputs, gradients, statistics.

The reference modules carry torchvision's and timm's names (tests/reference), the weights are random
and leave no scale at 1, no shift and no running statistic at 0. Every comparison goes through the
public `Classifier` (uint8 images, normalisation, head) and through the name maps of
`jaxbusi.weights`.

What is compared, with which bound:

* float32 logits and auxiliary logits: 1e-4 absolute; running statistics: 1e-4 of the tensor's norm.
* gradients of the transformer in float32: 1e-3 of each tensor's norm.
* gradients of the whole fusion in float32: 1e-3 of the norm of all tensors together. Here, as in
  any network with ReLU and max pooling, single tensors may differ by more: a pre-activation within
  rounding of zero passes its gradient in one program and stops it in the other. PyTorch's float32
  differs from its own float64 by 1e-3 to 1e-1 in single tensors of GoogLeNet for that reason.
* therefore the convolutional branches are compared in float64, where no such accident happens:
  everything to 1e-6 of each tensor's norm (measured: 1e-13 for logits, and 6e-8 for gradients,
  which is the rounding of the name maps' float32 result).

Without PyTorch the comparison is with its recorded float64 outputs: logits, and the norm and four
random projections of each gradient and statistic (`scripts/record_parity.py` writes them).
"""

import numpy as np
import pytest

from tests.reference import adam, flax
from tests.reference.cases import CASES, Case
from tests.reference.results import (
    Arrays,
    Result,
    full_errors,
    read_summary,
    summary_errors,
    weight_sums,
)

SINGLE_CASES = [case for case in CASES if not case.double]
DOUBLE_CASES = [case for case in CASES if case.double]


@pytest.fixture(scope="module", params=CASES, ids=lambda case: case.name)
def case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def single(case: Case) -> Result:
    """Ours in float32; without gradients where those are compared in float64."""
    return flax.run(case, double=False, gradients=not case.double)


@pytest.fixture(scope="module", params=DOUBLE_CASES, ids=lambda case: case.name)
def double_case(request: pytest.FixtureRequest) -> Case:
    return request.param


@pytest.fixture(scope="module")
def double(double_case: Case) -> Result:
    """Ours in float64."""
    return flax.run(double_case, double=True)


def _assert_outputs(actual: Result, expected: Result, bound: float) -> None:
    np.testing.assert_allclose(actual.logits, expected.logits, rtol=0, atol=bound)
    np.testing.assert_allclose(actual.auxiliary, expected.auxiliary, rtol=0, atol=bound)


def _assert_each(errors: tuple[Arrays, Arrays], bound: float) -> None:
    """Every tensor's difference is within `bound` of its norm; so it is 0 where the norm is."""
    differences, norms = errors
    worse = {path: d.max() / norms[path] for path, d in differences.items() if d.max() > 0}
    assert {path: error for path, error in worse.items() if error > bound} == {}


def _assert_together(errors: tuple[Arrays, Arrays], bound: float) -> None:
    """All tensors as one vector: its difference is within `bound` of its norm."""
    differences, norms = errors
    total = np.linalg.norm(list(norms.values()))
    assert (np.linalg.norm(list(differences.values()), axis=0) / total).max() <= bound


def _assert_single_gradients(case: Case, errors: tuple[Arrays, Arrays]) -> None:
    if "resnet18" in case.classifier.branches:
        _assert_together(errors, 1e-3)
    else:
        _assert_each(errors, 1e-3)


def _assert_recorded(case: Case, actual: Result, bound: float) -> None:
    recorded, _ = read_summary(case)
    summary = actual.summary()
    _assert_outputs(summary, recorded, bound)
    _assert_each(summary_errors(summary.statistics, recorded.statistics), bound)
    _assert_each(summary_errors(summary.gradients, recorded.gradients), bound)


def test_gradients_reach_every_parameter(case: Case) -> None:
    """The reference itself: only auxiliary heads in evaluation compare zeros."""
    recorded, sums = read_summary(case)
    np.testing.assert_allclose(
        weight_sums(case), sums, rtol=1e-6, err_msg="this NumPy draws other weights: record anew"
    )
    zero = {path for path, values in recorded.gradients.items() if not values.any()}
    idle = {path for path in recorded.gradients if "/aux" in path and not case.train}
    assert zero == idle
    assert 0.05 < np.abs(recorded.logits).max() < 20


def test_float32_matches_the_recorded_outputs(case: Case, single: Result) -> None:
    recorded, _ = read_summary(case)
    ours = single.summary()
    _assert_outputs(ours, recorded, 1e-4)
    _assert_each(summary_errors(ours.statistics, recorded.statistics), 1e-4)
    if not case.double:
        _assert_single_gradients(case, summary_errors(ours.gradients, recorded.gradients))


@pytest.mark.torch
def test_float32_matches_pytorch(case: Case, single: Result) -> None:
    from tests.reference import pytorch

    theirs = pytorch.run(case, double=False, gradients=not case.double)
    _assert_outputs(single, theirs, 1e-4)
    _assert_each(full_errors(single.statistics, theirs.statistics), 1e-4)
    if not case.double:
        _assert_single_gradients(case, full_errors(single.gradients, theirs.gradients))


def test_float64_matches_the_recorded_outputs(double_case: Case, double: Result) -> None:
    _assert_recorded(double_case, double, 1e-6)


@pytest.mark.torch
def test_float64_matches_pytorch_and_pytorch_its_record(double_case: Case, double: Result) -> None:
    from tests.reference import pytorch

    theirs = pytorch.run(double_case, double=True)
    _assert_recorded(double_case, theirs, 1e-6)
    _assert_outputs(double, theirs, 1e-6)
    _assert_each(full_errors(double.statistics, theirs.statistics), 1e-6)
    _assert_each(full_errors(double.gradients, theirs.gradients), 1e-6)


@pytest.mark.torch
@pytest.mark.parametrize("single_case", SINGLE_CASES, ids=lambda case: case.name)
def test_the_record_is_what_pytorch_gives(single_case: Case) -> None:
    from tests.reference import pytorch

    _assert_recorded(single_case, pytorch.run(single_case, double=True), 1e-6)


@pytest.mark.torch
def test_the_recorded_adam_is_what_pytorch_gives() -> None:
    live, recorded = adam.torch_adam_trajectory(), adam.recorded_adam_trajectory()
    np.testing.assert_array_equal(live.learning_rates, recorded.learning_rates)
    for ours, theirs in zip(recorded.parameters, live.parameters, strict=True):
        for name in theirs:
            np.testing.assert_allclose(ours[name], theirs[name], rtol=0, atol=1e-6)
