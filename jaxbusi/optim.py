"""The paper's optimizer: Adam with L2 in the gradient and a staircase of rates."""

import optax


def staircase(rate: float, *, decay_steps: int, factor: float) -> optax.Schedule:
    """Returns the schedule `rate * factor ** (step // decay_steps)`.

    This is `torch.optim.lr_scheduler.StepLR` advanced once an epoch, in steps.

    Args:
      rate: the first learning rate.
      decay_steps: optimizer steps at one rate.
      factor: multiplies the rate after each `decay_steps`.
    """
    return optax.exponential_decay(
        rate, transition_steps=decay_steps, decay_rate=factor, staircase=True
    )


def adam_l2(schedule: optax.Schedule, *, l2: float) -> optax.GradientTransformation:
    """Returns Adam that adds `l2 * parameter` to the gradient before its moments.

    This is `torch.optim.Adam(weight_decay=l2)` and not AdamW: every parameter decays, biases and
    normalisation scales too, and the decay passes through the moments.

    Args:
      schedule: the learning rate of a step, counted from 0.
      l2: the coefficient; the paper's is 1e-5.
    """
    return optax.chain(
        optax.add_decayed_weights(l2),
        optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8),
        optax.scale_by_learning_rate(schedule),
    )
