"""The optimizer step and the evaluation step on a tiny model and two fake devices."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from jaxbusi.optim import adam_l2, staircase
from jaxbusi.state import Metrics, batch_sharding, create_state, make_mesh, replicated, step_key
from jaxbusi.steps import eval_step, train_step
from tests.tiny import TinyModel


def make_batch(rows=8, seed=0, size=8):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, rows).astype(np.int32),
    }


def setup(mesh, model=None, average=False, **kwargs):
    model = model or TinyModel()
    optimizer = adam_l2(staircase(1e-2, decay_steps=100, factor=0.1), l2=1e-5)
    state = create_state(model, optimizer, mesh, seed=0, image_size=8, average=average)
    whole, sharded = replicated(mesh), batch_sharding(mesh)
    step = jax.jit(
        functools.partial(train_step, model=model, optimizer=optimizer, seed=0, **kwargs),
        in_shardings=(whole, sharded),
        out_shardings=(whole, whole),
        donate_argnums=0,
    )
    return state, step


def place(batch, mesh):
    return jax.device_put(batch, batch_sharding(mesh))


def assert_trees_close(one, other, **tolerance):
    for (path, x), y in zip(jax.tree.leaves_with_path(one), jax.tree.leaves(other), strict=True):
        np.testing.assert_allclose(x, y, err_msg=jax.tree_util.keystr(path), **tolerance)


def test_two_devices_take_the_step_of_one():
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        mesh = make_mesh(devices)
        state, step = setup(mesh)
        for seed in range(3):
            state, report = step(state, place(make_batch(seed=seed), mesh))
        results.append(jax.device_get((state, report)))
    assert len(jax.devices()) >= 2
    assert_trees_close(results[0], results[1], rtol=1e-4, atol=1e-5)


def test_training_fits_a_batch_and_moves_batch_statistics():
    mesh = make_mesh()
    state, step = setup(mesh)
    before = jax.device_get(state.batch_stats)
    batch = place(make_batch(), mesh)
    losses = []
    with jax.transfer_guard("disallow"):  # nothing crosses to a device behind our back
        for _ in range(60):
            state, report = step(state, batch)
            losses.append(jax.device_get(report.loss))
    assert losses[-1] < losses[0] - 0.2
    after = jax.device_get(state.batch_stats)
    assert not np.allclose(before["norm"]["mean"], after["norm"]["mean"])
    assert int(state.step) == 60


def test_metrics_add_up_every_example_once():
    mesh = make_mesh()
    state, step = setup(mesh)
    total = 0.0
    for seed in range(3):
        state, report = step(state, place(make_batch(seed=seed), mesh))
        total += float(np.sum(report.example_loss))
    metrics = jax.device_get(state.metrics).compute()
    assert metrics["confusion"].sum() == 24
    labels = np.concatenate([make_batch(seed=seed)["label"] for seed in range(3)])
    np.testing.assert_array_equal(metrics["confusion"].sum(axis=1), np.bincount(labels))
    np.testing.assert_allclose(metrics["loss"], total / 24, rtol=1e-6)


def test_the_auxiliary_heads_count_three_tenths():
    mesh = make_mesh()
    state, step = setup(mesh)
    variables = jax.device_get(state.variables())
    batch = make_batch()
    output, _ = TinyModel().apply(variables, batch["image"], train=True, mutable=["batch_stats"])
    cross_entropy = optax.softmax_cross_entropy_with_integer_labels
    wanted = jnp.mean(cross_entropy(output.logits, batch["label"])) + 0.3 * jnp.mean(
        cross_entropy(output.auxiliary[0], batch["label"])
    )
    _, report = step(state, place(batch, mesh))
    np.testing.assert_allclose(report.loss, wanted, rtol=1e-6)


def test_accumulation_takes_the_mean_gradient():
    # Two equal halves: batch statistics of a half are those of the whole, and so is the gradient.
    half = make_batch(rows=4)
    # Strided halves: rows 0, 2, 4, 6 and rows 1, 3, 5, 7.
    batch = {name: np.repeat(values, 2, axis=0) for name, values in half.items()}
    mesh = make_mesh()
    results = []
    for accumulate in (1, 2):
        state, step = setup(mesh, accumulate=accumulate)
        state, report = step(state, place(batch, mesh))
        results.append(jax.device_get((state.params, report.loss, report.example_loss)))
    assert_trees_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_accumulation_keeps_examples_in_order():
    mesh = make_mesh()
    batch = make_batch(rows=8)
    state, step = setup(mesh, accumulate=2)
    variables = jax.device_get(state.variables())
    _, report = step(state, place(batch, mesh))
    # The first micro-batch holds the even rows.
    output, _ = TinyModel().apply(
        variables, batch["image"][::2], train=True, mutable=["batch_stats"]
    )
    wanted = optax.softmax_cross_entropy_with_integer_labels(output.logits, batch["label"][::2])
    np.testing.assert_allclose(report.example_loss[::2], wanted, rtol=1e-5)


def test_the_average_moves_by_its_decay():
    mesh = make_mesh()
    state, step = setup(mesh, average=True, ema_decay=0.75)
    before = jax.device_get(state.average)
    state, _ = step(state, place(make_batch(), mesh))
    wanted = jax.tree.map(
        lambda a, b: 0.75 * a + 0.25 * b, before, jax.device_get(state.variables())
    )
    assert_trees_close(jax.device_get(state.average), wanted, rtol=1e-5, atol=1e-7)
    assert state.inference_variables() is state.average


def test_dropout_depends_on_seed_and_step_only():
    mesh = make_mesh()
    losses = []
    for _ in range(2):
        state, step = setup(mesh, TinyModel(dropout=0.5))
        batch = place(make_batch(), mesh)
        state, first = step(state, batch)
        state, second = step(state, batch)
        losses.append([float(first.loss), float(second.loss)])
    assert losses[0] == losses[1]
    assert losses[0][0] != losses[0][1]
    assert step_key(0, 1, 3) != step_key(0, 1, 4)
    assert step_key(0, 1, 3) != step_key(1, 1, 3)
    assert step_key(0, 1, 3) == step_key(0, 1, 3)


def test_masked_rows_do_not_count_in_evaluation():
    model = TinyModel()
    variables = jax.device_get(setup(make_mesh())[0].variables())
    batch = make_batch(rows=6)
    padded = {
        "image": np.concatenate([batch["image"], np.zeros((2, 8, 8, 3), np.uint8)]),
        "label": np.concatenate([batch["label"], np.zeros(2, np.int32)]),
        "mask": np.arange(8) < 6,
    }
    evaluate = jax.jit(functools.partial(eval_step, model=model))
    some, probabilities, features = jax.device_get(evaluate(variables, padded, np.ones(3, bool)))
    whole = {**batch, "mask": np.ones(6, bool)}
    all_, wanted, described = jax.device_get(evaluate(variables, whole, np.ones(3, bool)))
    np.testing.assert_array_equal(some.compute()["confusion"], all_.compute()["confusion"])
    np.testing.assert_allclose(some.compute()["loss"], all_.compute()["loss"], rtol=1e-6)
    np.testing.assert_allclose(probabilities[:6], wanted, rtol=1e-6)
    np.testing.assert_allclose(features[:6], described, rtol=1e-6)
    np.testing.assert_allclose(probabilities.sum(axis=1), 1.0, rtol=1e-6)
    # Rows are the truth.
    predicted = np.argmax(wanted, axis=1)
    counted = np.zeros((3, 3), int)
    np.add.at(counted, (batch["label"], predicted), 1)
    np.testing.assert_array_equal(all_.compute()["confusion"], counted)


def test_empty_metrics_change_nothing():
    metrics = jax.device_get(
        Metrics.single_from_model_output(
            logits=jnp.eye(3),
            labels=jnp.array([0, 1, 1], jnp.int32),
            example_loss=jnp.ones(3),
            mask=jnp.ones(3, bool),
        )
    )
    merged = jax.device_get(Metrics.empty().merge(metrics)).compute()
    np.testing.assert_array_equal(merged["confusion"], metrics.compute()["confusion"])
    assert merged["loss"] == pytest.approx(1.0)
