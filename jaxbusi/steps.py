"""One optimizer step and one evaluation step: pure functions of arrays."""

from collections.abc import Callable
from typing import Any

import flax
import jax
import jax.numpy as jnp
import optax
from flax import linen as nn

from jaxbusi.data.records import CLASSES
from jaxbusi.losses import PLAIN, CrossEntropy
from jaxbusi.mixing import UNMIXED, Mixing
from jaxbusi.models.fusion import BRANCHES, Output
from jaxbusi.state import Metrics, TrainState, Tree, step_key

Batch = dict[str, jax.Array]
"""`image` uint8[B, H, W, 3], `label` int32[B], in evaluation `mask` bool[B], and under the name of
a branch its features f32[B, d] where they are known already."""

AUXILIARY_WEIGHT = 0.3
"""Share of each auxiliary head's loss in training (GoogLeNet, section 5 of its paper)."""


@flax.struct.dataclass
class StepReport:
    """What the host looks at after a training step.

    Attributes:
      loss: float32[], the mean that was minimised, auxiliary heads included, L2 not.
      example_loss: float32[B], that of each image, to name those that broke a step.
      gradient_norm: float32[], over all parameters.
      gradient_norms: float32[] of each branch and of the head.
    """

    loss: jax.Array
    example_loss: jax.Array
    gradient_norm: jax.Array
    gradient_norms: dict[str, jax.Array]


def train_step(
    state: TrainState,
    batch: Batch,
    *,
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    loss: CrossEntropy = PLAIN,
    mixing: Mixing = UNMIXED,
    frozen: tuple[str, ...] = (),
    accumulate: int = 1,
    ema_decay: float = 0.0,
) -> tuple[TrainState, StepReport]:
    """Takes one optimizer step on one batch.

    Args:
      state: the state before; its buffers may be donated.
      batch: B images and labels, B a multiple of `accumulate`.
      model: a `Classifier`.
      optimizer: the one whose state `state` carries.
      seed: of the run; the keys of dropout and mixing are folded from it and the step.
      loss: of the classifier and of each auxiliary head.
      mixing: blends the batch before it is divided. The metrics count a blend as the class that
        has the largest share of it.
      frozen: branches whose parameters, batch statistics and averages stay bit for bit. They must
        be those that `optimizer` freezes at this step.
      accumulate: micro-batches, run one after the other, whose mean gradient makes the step. Batch
        normalisation sees a micro-batch at a time.
      ema_decay: of the moving average, used where the state carries one.

    Returns:
      The state after the step, with the batch counted in its metrics, and a report.
    """
    inputs, targets = _inputs(batch), batch["label"]
    if mixing.active:
        key = step_key(seed, 2, state.step)
        images, targets = mixing(batch["image"], targets, len(CLASSES), key)
        inputs = {"images": images}
    gradient_fn = _gradient_fn(
        model.clone(frozen=frozen) if frozen else model,
        state.params,
        loss,
        loss.mean_weight(targets),
        step_key(seed, 1, state.step),
    )
    stats, gradients, outcome = _accumulate(gradient_fn, state, inputs, targets, accumulate)

    # optax mixes its int32 step counters with floats, which strict promotion, on in tests, forbids.
    with jax.numpy_dtype_promotion("standard"):
        updates, opt_state = optimizer.update(gradients, state.opt_state, state.params)
    # What is frozen is put back, since -0.0 + 0.0 and the mean of two equal numbers may round.
    params = _put_back(optax.apply_updates(state.params, updates), state.params, frozen)
    average = state.average
    if average is not None:
        new = optax.incremental_update(
            {"params": params, "batch_stats": stats}, average, 1.0 - ema_decay
        )
        average = {name: _put_back(new[name], average[name], frozen) for name in new}
    metrics = state.metrics.merge(
        Metrics.single_from_model_output(
            logits=outcome.logits,
            labels=targets if targets.ndim == 1 else jnp.argmax(targets, axis=-1),
            example_loss=outcome.example_loss,
            mask=jnp.ones_like(batch["label"], dtype=bool),
        )
    )
    report = StepReport(
        outcome.loss,
        outcome.example_loss,
        optax.tree.norm(gradients),
        {name: optax.tree.norm(tree) for name, tree in gradients.items()},
    )
    new_state = TrainState(state.step + 1, params, stats, opt_state, average, metrics)
    return new_state, report


@flax.struct.dataclass
class _Outcome:
    """Of a micro-batch or a batch: loss f32[], logits f32[B, C] and each image's loss f32[B]."""

    loss: jax.Array
    logits: jax.Array
    example_loss: jax.Array


Inputs = dict[str, Any]
"""What the model is called with: `images`, and `given` where features are known."""

GradientFn = Callable[[Tree, Inputs, jax.Array, jax.Array], tuple[Tree, Tree, _Outcome]]
"""Batch statistics, inputs, targets and the number of a micro-batch to the statistics after it,
the gradients of its loss, and the outcome."""


def _gradient_fn(
    model: nn.Module, params: Tree, loss: CrossEntropy, mean_weight: jax.Array, key: jax.Array
) -> GradientFn:
    def loss_fn(
        params: Tree, stats: Tree, inputs: Inputs, targets: jax.Array, key: jax.Array
    ) -> Any:
        output, updates = model.apply(
            {"params": params, "batch_stats": stats},
            **inputs,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": key},
        )
        example_loss = loss.per_example(output.logits, targets)
        total = jnp.mean(example_loss)
        for logits in output.auxiliary:
            total += AUXILIARY_WEIGHT * jnp.mean(loss.per_example(logits, targets))
        total /= mean_weight
        return total, (updates.get("batch_stats", {}), output.logits, example_loss)

    def gradient_fn(
        stats: Tree, inputs: Inputs, targets: jax.Array, index: jax.Array
    ) -> tuple[Tree, Tree, _Outcome]:
        (total, (stats, logits, example_loss)), gradients = jax.value_and_grad(
            loss_fn, has_aux=True
        )(params, stats, inputs, targets, jax.random.fold_in(key, index))
        return stats, gradients, _Outcome(total, logits, example_loss)

    return gradient_fn


def _accumulate(
    gradient_fn: GradientFn, state: TrainState, inputs: Inputs, targets: jax.Array, parts: int
) -> tuple[Tree, Tree, _Outcome]:
    """Runs the parts of a batch one after the other: statistics, mean gradient and outcome."""
    if parts == 1:
        return gradient_fn(state.batch_stats, inputs, targets, jnp.int32(0))

    def micro_step(carry: tuple[Tree, Tree], part: tuple[Inputs, jax.Array, jax.Array]) -> Any:
        stats, gradients = carry
        stats, new, outcome = gradient_fn(stats, *part)
        return (stats, jax.tree.map(jnp.add, gradients, new)), outcome

    (stats, gradients), outcomes = jax.lax.scan(
        micro_step,
        (state.batch_stats, jax.tree.map(jnp.zeros_like, state.params)),
        (
            jax.tree.map(lambda x: _split(x, parts), inputs),
            _split(targets, parts),
            jnp.arange(parts, dtype=jnp.int32),
        ),
    )
    outcome = _Outcome(
        jnp.mean(outcomes.loss), _join(outcomes.logits), _join(outcomes.example_loss)
    )
    return stats, jax.tree.map(lambda g: g / parts, gradients), outcome


def _inputs(batch: Batch) -> Inputs:
    given = {name: batch[name] for name in BRANCHES if name in batch}
    return {"images": batch["image"]} | ({"given": given} if given else {})


def _put_back(new: Tree, old: Tree, names: tuple[str, ...]) -> Tree:
    """Returns `new` with the named sub-trees of `old`, as far as it has them."""
    return {**new, **{name: old[name] for name in names if name in old}}


def _split(x: jax.Array, parts: int) -> jax.Array:
    """[B, ...] to [parts, B / parts, ...], every part a strided share.

    A device's rows of a sharded batch are neighbours, so that strides, unlike blocks, give every
    device its share of every part without moving a row.
    """
    return jnp.moveaxis(x.reshape(x.shape[0] // parts, parts, *x.shape[1:]), 1, 0)


def _join(x: jax.Array) -> jax.Array:
    """Undoes `_split`: [parts, B / parts, ...] to [B, ...] in the batch's order."""
    return jnp.moveaxis(x, 0, 1).reshape(x.shape[0] * x.shape[1], *x.shape[2:])


def eval_step(
    variables: Tree, batch: Batch, judged: jax.Array, *, model: nn.Module
) -> tuple[Metrics, jax.Array, jax.Array]:
    """Classifies one batch.

    Args:
      variables: {'params', 'batch_stats'}.
      batch: B images and labels; rows whose `mask` is False are padding.
      judged: bool[3], between which classes the metrics are taken: the others are no answer.
      model: a `Classifier`.

    Returns:
      Metrics over the unmasked rows; probabilities float32[B, 3] of all rows and classes; features
      float32[B, d], see `joined`.
    """
    output: Any = model.apply(variables, **_inputs(batch), train=False)
    # Without their logits the probabilities of the rest are renormalised, as results.json has them.
    logits = jnp.where(judged[None], output.logits, -jnp.inf)
    loss = optax.softmax_cross_entropy_with_integer_labels(logits, batch["label"])
    metrics = Metrics.single_from_model_output(
        logits=logits, labels=batch["label"], example_loss=loss, mask=batch["mask"]
    )
    return metrics, jax.nn.softmax(output.logits), joined(output)


def joined(output: Output) -> jax.Array:
    """The features float32[B, d] of all branches, side by side in the order of their names."""
    return jnp.concatenate([output.features[name] for name in sorted(output.features)], axis=-1)
