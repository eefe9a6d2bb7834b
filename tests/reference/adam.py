"""Twenty steps of torch.optim.Adam with L2 and StepLR: live where PyTorch is, else recorded."""

import dataclasses

import numpy as np

from tests.reference.results import RECORDED

STEPS = 20
LEARNING_RATE = 1e-3
WEIGHT_DECAY = 1e-5
STEP_SIZE = 8
"""Steps between two decays of the learning rate."""
GAMMA = 0.1

SHAPES = {"conv": (3, 3, 4, 8), "bias": (8,), "quiet": (16,), "still": (5,)}
GRADIENT_SCALE = {"conv": 1.0, "bias": 1e-2, "quiet": 1e-6, "still": 0.0}
"""In `quiet` the L2 term outweighs the gradient, in `still` it is all there is: a decay that is
decoupled, left out or added after Adam's scaling shows there at once."""

Arrays = dict[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Trajectory:
    """A run of the optimizer over given gradients.

    Attributes:
      start: parameters before the first step, float32.
      gradients: of each step, float32; they do not contain the L2 term.
      learning_rates: f64[STEPS], in force at each step.
      parameters: after each step, float32; the last ones are those after STEPS steps.
    """

    start: Arrays
    gradients: list[Arrays]
    learning_rates: np.ndarray
    parameters: list[Arrays]


def start_parameters() -> Arrays:
    """Seeded parameters of unit scale."""
    rng = np.random.default_rng(20)
    return {name: rng.normal(size=shape).astype(np.float32) for name, shape in SHAPES.items()}


def gradient_sequence() -> list[Arrays]:
    """Seeded gradients of each step."""
    rng = np.random.default_rng(21)
    return [
        {
            name: (rng.normal(size=shape) * GRADIENT_SCALE[name]).astype(np.float32)
            for name, shape in SHAPES.items()
        }
        for _ in range(STEPS)
    ]


def torch_adam_trajectory() -> Trajectory:
    """`torch.optim.Adam(weight_decay=1e-5)` under `StepLR(8, 0.1)`, run now; needs PyTorch."""
    import torch

    start, gradients = start_parameters(), gradient_sequence()
    parameters = {name: torch.nn.Parameter(torch.tensor(start[name])) for name in start}
    optimizer = torch.optim.Adam(parameters.values(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, step_size=STEP_SIZE, gamma=GAMMA)
    rates, visited = [], []
    for step in gradients:
        for name, parameter in parameters.items():
            parameter.grad = torch.tensor(step[name])
        rates.append(optimizer.param_groups[0]["lr"])
        optimizer.step()
        schedule.step()
        visited.append({name: p.numpy(force=True).copy() for name, p in parameters.items()})
    return Trajectory(start, gradients, np.asarray(rates), visited)


def write_recorded(trajectory: Trajectory) -> None:
    """Writes what PyTorch added to the seeded numbers."""
    visited = {
        name: np.stack([step[name] for step in trajectory.parameters]) for name in trajectory.start
    }
    visited["rates"] = trajectory.learning_rates
    np.savez_compressed(RECORDED / "adam.npz", allow_pickle=False, **visited)


def recorded_adam_trajectory() -> Trajectory:
    """The trajectory that `scripts/record_parity.py` has written."""
    with np.load(RECORDED / "adam.npz") as file:
        visited = [{name: file[name][step] for name in SHAPES} for step in range(STEPS)]
        return Trajectory(start_parameters(), gradient_sequence(), file["rates"], visited)
