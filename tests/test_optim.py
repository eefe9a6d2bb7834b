"""Adam with L2 under the staircase is torch.optim.Adam under StepLR, step by step."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from configs import fusion
from jaxbusi.optim import adam_l2, make_optimizer, make_schedule, staircase
from jaxbusi.settings import Settings
from tests.reference import adam


def the_configs_optimizer():
    """That of configs/fusion.py, with the trajectory's step size."""
    settings = Settings.from_config(fusion.get_config()).optim
    assert (settings.learning_rate, settings.l2) == (adam.LEARNING_RATE, adam.WEIGHT_DECAY)
    schedule = make_schedule(
        settings, decay_steps=adam.STEP_SIZE, warmup_steps=0, total_steps=adam.STEPS
    )
    return schedule, make_optimizer(settings, schedule)


def the_parts():
    schedule = staircase(adam.LEARNING_RATE, decay_steps=adam.STEP_SIZE, factor=adam.GAMMA)
    return schedule, adam_l2(schedule, l2=adam.WEIGHT_DECAY)


@pytest.mark.parametrize("make", [the_parts, the_configs_optimizer])
@pytest.mark.parametrize(
    "origin",
    [
        adam.recorded_adam_trajectory,
        pytest.param(adam.torch_adam_trajectory, marks=pytest.mark.torch),
    ],
)
def test_twenty_steps_are_those_of_pytorch(make, origin):
    expected = origin()
    schedule, optimizer = make()
    params = jax.tree.map(jnp.asarray, expected.start)
    state = optimizer.init(params)

    @jax.jit
    def step(params, state, gradients):
        with jax.numpy_dtype_promotion("standard"):  # as in train_step: optax's int32 counters
            updates, state = optimizer.update(gradients, state, params)
        return optax.apply_updates(params, updates), state

    for number, gradients in enumerate(expected.gradients):
        np.testing.assert_allclose(
            schedule(number), expected.learning_rates[number], rtol=1e-6, atol=0
        )
        params, state = step(params, state, jax.tree.map(jnp.asarray, gradients))
        for name, theirs in expected.parameters[number].items():
            np.testing.assert_allclose(params[name], theirs, rtol=0, atol=1e-6)
    for name, theirs in expected.parameters[-1].items():
        assert np.abs(theirs - expected.start[name]).max() > 5e-3  # they went somewhere


def test_the_trajectory_tells_coupled_from_decoupled_decay():
    """The comparison can fail: optax.adamw of the same numbers ends elsewhere."""
    expected = adam.recorded_adam_trajectory()
    optimizer = optax.adamw(adam.LEARNING_RATE, weight_decay=adam.WEIGHT_DECAY)
    params = jax.tree.map(jnp.asarray, expected.start)
    with jax.numpy_dtype_promotion("standard"):
        updates, _ = optimizer.update(
            jax.tree.map(jnp.asarray, expected.gradients[0]), optimizer.init(params), params
        )
    ours = optax.apply_updates(params, updates)["quiet"]
    assert np.abs(ours - expected.parameters[0]["quiet"]).max() > 1e-4
