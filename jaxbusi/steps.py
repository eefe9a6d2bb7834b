"""One optimizer step and one evaluation step: pure functions of arrays."""

from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxbusi.state import Metrics, TrainState, Tree, step_key

Batch = dict[str, jax.Array]
"""`image` uint8[B, H, W, 3], `label` int32[B], and in evaluation `mask` bool[B]."""

AUXILIARY_WEIGHT = 0.3
"""Share of each auxiliary head's loss in training (GoogLeNet, section 5 of its paper)."""


@flax.struct.dataclass
class StepReport:
    """What the host looks at after a training step.

    Attributes:
      loss: float32[], the mean that was minimised, auxiliary heads included, L2 not.
      example_loss: float32[B], cross-entropy of each image, to name those that broke a step.
      gradient_norm: float32[], over all parameters.
    """

    loss: jax.Array
    example_loss: jax.Array
    gradient_norm: jax.Array


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, StepReport]:
    """Takes one optimizer step on one batch.

    Args:
      state: the state before; its buffers may be donated.
      batch: B images and labels, B a multiple of `accumulate`.
      model: a `Classifier`.
      optimizer: the one whose state `state` carries.
      seed: of the run; dropout's key is folded from it and the step.
      accumulate: micro-batches, run one after the other, whose mean gradient makes the step. Batch
        normalisation sees a micro-batch at a time.
      ema_decay: of the moving average, used where the state carries one.

    Returns:
      The state after the step, with the batch counted in its metrics, and a report.
    """
    key = step_key(seed, 1, state.step)

    def loss_fn(
        params: Tree, stats: Tree, images: jax.Array, labels: jax.Array, key: jax.Array
    ) -> Any:
        output, updates = model.apply(
            {"params": params, "batch_stats": stats},
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        example_loss = optax.softmax_cross_entropy_with_integer_labels(output.logits, labels)
        loss = jnp.mean(example_loss)
        for logits in output.auxiliary:
            auxiliary = optax.softmax_cross_entropy_with_integer_labels(logits, labels)
            loss += AUXILIARY_WEIGHT * jnp.mean(auxiliary)
        return loss, (updates.get("batch_stats", {}), output.logits, example_loss)

    def micro_step(carry: tuple[Tree, Tree], inputs: tuple[jax.Array, ...]) -> Any:
        stats, gradients = carry
        images, labels, index = inputs
        (loss, (stats, logits, example_loss)), new = jax.value_and_grad(loss_fn, has_aux=True)(
            state.params, stats, images, labels, jax.random.fold_in(key, index)
        )
        gradients = new if gradients is None else jax.tree.map(jnp.add, gradients, new)
        return (stats, gradients), (loss, logits, example_loss)

    if accumulate == 1:
        inputs = (batch["image"], batch["label"], jnp.int32(0))
        (stats, gradients), (loss, logits, example_loss) = micro_step(
            (state.batch_stats, None), inputs
        )
    else:
        inputs = (
            _split(batch["image"], accumulate),
            _split(batch["label"], accumulate),
            jnp.arange(accumulate, dtype=jnp.int32),
        )
        zeros = jax.tree.map(jnp.zeros_like, state.params)
        (stats, gradients), (losses, logits, example_loss) = jax.lax.scan(
            micro_step, (state.batch_stats, zeros), inputs
        )
        gradients = jax.tree.map(lambda g: g / accumulate, gradients)
        loss, logits, example_loss = jnp.mean(losses), _join(logits), _join(example_loss)

    # optax mixes its int32 step counters with floats, which strict promotion, on in tests, forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    average = state.average
    if average is not None:
        average = optax.incremental_update(
            {"params": params, "batch_stats": stats}, average, 1.0 - ema_decay
        )
    metrics = state.metrics.merge(
        Metrics.single_from_model_output(
            logits=logits,
            labels=batch["label"],
            example_loss=example_loss,
            mask=jnp.ones_like(batch["label"], dtype=bool),
        )
    )
    report = StepReport(loss, example_loss, optax.tree.norm(gradients))
    new_state = TrainState(state.step + 1, params, stats, opt_state, average, metrics)
    return new_state, report


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B / parts, ...], every part a strided share.

    A device's rows of a sharded batch are neighbours, so that strides, unlike blocks, give every
    device its share of every part without moving a row.
    """
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _join(x: jax.Array) -> jax.Array:
    """Undoes `_split`: [parts, B / parts, ...] to [B, ...] in the batch's order."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def eval_step(variables: Tree, batch: Batch, *, model: nn.Module) -> tuple[Metrics, jax.Array]:
    """Classifies one batch.

    Args:
      variables: {'params', 'batch_stats'}.
      batch: B images and labels; rows whose `mask` is False are padding.
      model: a `Classifier`.

    Returns:
      Metrics over the unmasked rows, and probabilities float32[B, 3] of all rows.
    """
    output: Any = model.apply(variables, batch["image"], train=False)
    loss = optax.softmax_cross_entropy_with_integer_labels(output.logits, batch["label"])
    metrics = Metrics.single_from_model_output(
        logits=output.logits, labels=batch["label"], example_loss=loss, mask=batch["mask"]
    )
    return metrics, jax.nn.softmax(output.logits)
