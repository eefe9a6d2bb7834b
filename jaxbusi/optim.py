"""From gradients to updates: Adam with L2 or AdamW, schedules, rates of the parts, freezing."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import optax

from jaxbusi.settings import OptimSettings

FOR_GOOD = -1
"""In place of the step at which a branch begins to learn: it never does."""


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


def warmup_cosine(rate: float, *, warmup_steps: int, total_steps: int) -> optax.Schedule:
    """Returns a linear rise to `rate` and half a cosine wave down to 0.

    Warm-up step t of w has `rate * (t + 1) / (w + 1)`, so that the first one counts too. After it
    this is `torch.optim.lr_scheduler.CosineAnnealingLR` over the remaining steps.

    Args:
      rate: the highest learning rate, that of step `warmup_steps`.
      warmup_steps: steps before it; 0 starts with it.
      total_steps: the step, after the last one of the run, at which the rate would be 0.
    """
    return optax.warmup_cosine_decay_schedule(
        init_value=rate / (warmup_steps + 1),
        peak_value=rate,
        warmup_steps=warmup_steps,
        decay_steps=total_steps,
    )


def make_schedule(
    settings: OptimSettings, *, decay_steps: int, warmup_steps: int, total_steps: int
) -> optax.Schedule:
    """Returns the schedule that `config.optim` describes, its durations resolved into steps."""
    if settings.schedule == "cosine":
        return warmup_cosine(
            settings.learning_rate, warmup_steps=warmup_steps, total_steps=total_steps
        )
    return staircase(settings.learning_rate, decay_steps=decay_steps, factor=settings.decay_factor)


def adam_l2(schedule: optax.Schedule, *, l2: float) -> optax.GradientTransformation:
    """Returns Adam that adds `l2 * parameter` to the gradient before its moments.

    This is `torch.optim.Adam(weight_decay=l2)` and not AdamW: every parameter decays, biases and
    normalisation scales too, and the decay passes through the moments.

    Args:
      schedule: the learning rate of a step, counted from 0.
      l2: the coefficient; the paper's is 1e-5.
    """
    return optax.chain(_l2_before_adam(l2), optax.scale_by_learning_rate(schedule))


def make_optimizer(
    settings: OptimSettings, schedule: optax.Schedule, *, thaw: Mapping[str, int] | None = None
) -> optax.GradientTransformation:
    """Returns the optimizer that `config.optim` describes.

    In this order: the gradient of all parameters together is clipped; Adam, with the decay that
    belongs to it, scales it; factors of branches and layers and the schedule multiply the result.
    A rate that is a factor lower lowers AdamW's decay with it, as a parameter group of torch does.

    Args:
      settings: `config.optim`.
      schedule: the learning rate of a step, counted from 0 and not from the end of a freeze.
      thaw: for a branch that starts frozen, the step at which it begins to learn, or FOR_GOOD.
        Until then its updates are 0, decay included, and its moments are not begun.
    """
    if settings.name == "adamw":
        # As optax.adamw, less the rate, which follows.
        scale = optax.chain(_adam(), optax.add_decayed_weights(settings.weight_decay))
    else:
        scale = _l2_before_adam(settings.l2)
    factors = dataclasses.asdict(settings.factors)
    steps = [
        optax.clip_by_global_norm(settings.clip_norm) if settings.clip_norm else None,
        _freeze(scale, thaw) if thaw else scale,
        scale_by_part(factors, layer_decay=settings.vit_layer_decay)
        if any(factor != 1 for factor in (*factors.values(), settings.vit_layer_decay))
        else None,
        optax.scale_by_learning_rate(schedule),
    ]
    return optax.chain(*(step for step in steps if step is not None))


def scale_by_part(
    factors: Mapping[str, float], *, layer_decay: float = 1.0
) -> optax.GradientTransformation:
    """Returns a transformation that multiplies updates by a factor of the part they belong to.

    The layers of the transformer are numbered as in MAE (arXiv:2111.06377): 0 the patch and
    position embeddings, 1 … depth the encoder's, depth + 1 the last norm. One of number n gets
    `layer_decay ** (depth + 1 - n)` on top of the branch's factor.

    Args:
      factors: by branch, and of `head`; of what is not named 1.
      layer_decay: in (0, 1].
    """

    def update(updates: Any, _: Any = None) -> Any:
        depth = sum(name.startswith("layer_") for name in updates.get("vit", {}))

        def scale(path: tuple[Any, ...], value: jax.Array) -> jax.Array:
            part = path[0].key
            factor = factors.get(part, 1.0)
            if part == "vit":
                factor *= layer_decay ** (depth + 1 - _layer(path[1].key, depth))
            return value * factor

        return jax.tree.map_with_path(scale, updates)

    return optax.stateless(update)


def _layer(name: str, depth: int) -> int:
    """The number of a transformer's layer from the name of its parameters."""
    if name.startswith("layer_"):
        return int(name.removeprefix("layer_")) + 1
    return depth + 1 if name == "norm" else 0


def _adam() -> optax.GradientTransformation:
    return optax.scale_by_adam(b1=0.9, b2=0.999, eps=1e-8)


def _l2_before_adam(l2: float) -> optax.GradientTransformation:
    return optax.chain(optax.add_decayed_weights(l2), _adam())


def _freeze(
    inner: optax.GradientTransformation, thaw: Mapping[str, int]
) -> optax.GradientTransformation:
    """Applies `inner`, but to each branch of `thaw` only from its step on."""

    def begin_at(step: int) -> optax.GradientTransformation:
        if step == FOR_GOOD:
            return optax.set_to_zero()
        return optax.conditionally_mask(inner, lambda count: count >= step)

    def labels(params: Mapping[str, Any]) -> dict[str, str]:
        return {name: name if name in thaw else "" for name in params}

    return optax.partition({"": inner, **{name: begin_at(thaw[name]) for name in thaw}}, labels)
