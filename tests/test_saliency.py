"""The maps, against gradients that JAX takes through the model itself and products by hand."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbusi.explain import saliency
from jaxbusi.explain.looker import Looker
from jaxbusi.models import googlenet
from jaxbusi.models import vit as vit_module
from jaxbusi.state import make_mesh
from tests.tiny import TINY_VIT, tiny_fusion

SIDE = 16
IMAGES = np.random.default_rng(0).integers(0, 256, (2, SIDE, SIDE, 3), np.uint8)
CLASS_TOKEN = dataclasses.replace(TINY_VIT, class_token=True, layer_scale=True)
ANSWER = jnp.full(2, -1, jnp.int32)


def look(model, variables, target=ANSWER):
    return jax.jit(functools.partial(saliency.look, model))(variables, IMAGES, target)


def initialised(model):
    """Weights large enough that attention is not even; drawn here, as compiling init takes long."""
    rng = np.random.default_rng(1)
    shapes = jax.eval_shape(functools.partial(model.init, train=False), jax.random.key(0), IMAGES)
    return jax.tree.map(
        lambda leaf: (
            (0.1 + np.abs(rng.normal(0, 0.5, leaf.shape))).astype(leaf.dtype)
            if leaf.ndim == 1
            else rng.normal(0, 0.5, leaf.shape).astype(leaf.dtype)
        ),
        shapes,
    )


@pytest.fixture(params=[("mean", TINY_VIT), ("both", CLASS_TOKEN)], ids=["mean", "both"])
def fusion(request):
    pooling, size = request.param
    with tiny_fusion(pooling=pooling, vit=size) as model:
        yield model, initialised(model)


def attentions(model, variables):
    """The attention of each layer, f32[B, heads, T, T], and its gradient, through the model."""
    tokens = (SIDE // model.vit.patch) ** 2 + int(model.vit.class_token)
    zeros = [jnp.zeros((2, model.vit.heads, tokens, tokens))] * model.vit.depth
    softmax = jax.nn.softmax
    kept = []

    def ask(nudges):
        kept.clear()

        def nudged(x, axis):
            kept.append(softmax(x, axis=axis) + nudges[len(kept)])
            return kept[-1]

        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(vit_module.jax.nn, "softmax", nudged)
            output = model.apply(variables, IMAGES, train=False)
        answer = output.logits.argmax(-1)
        return sum(output.logits[row, answer[row]] for row in range(2)), list(kept)

    slopes, weights = jax.jit(jax.grad(ask, has_aux=True))(zeros)
    return [np.asarray(w) for w in weights], [np.asarray(s) for s in slopes]


def read(model, rows):
    """f32[B, T, T] to the map of patches, as the features were pooled."""
    first = int(model.vit.class_token)
    side = SIDE // model.vit.patch
    mean, of_class = rows[:, first:].mean(1), rows[:, 0]
    row = {"mean": mean, "class": of_class, "both": (mean + of_class) / 2}[model.pooling]
    return row[:, first:].reshape(2, side, side)


def test_the_attention_is_the_models_own(fusion):
    model, variables = fusion
    features, maps = look(model, variables)
    captured = functools.partial(
        model.apply,
        train=False,
        capture_intermediates=lambda module, _: module.name in ("qkv", "attn"),
        mutable=["intermediates"],
    )
    output, extra = jax.jit(captured)(variables, IMAGES)
    assert all((rows >= 0).all() for rows in maps.values())
    for name, rows in output.features.items():
        np.testing.assert_allclose(features[name], rows, rtol=1e-5, atol=1e-6)
    tokens = (SIDE // model.vit.patch) ** 2 + int(model.vit.class_token)
    for number in range(model.vit.depth):
        layer = extra["intermediates"]["vit"][f"layer_{number}"]["attn"]
        weights, value = saliency.attention(layer["qkv"]["__call__"][0], tokens, model.vit.heads)
        mixed = jnp.einsum("bhqk,bkhd->bqhd", weights, value).reshape(2, tokens, -1)
        proj = variables["params"]["vit"][f"layer_{number}"]["attn"]["proj"]
        again = mixed @ proj["kernel"] + proj["bias"].reshape(1, 1, -1)
        np.testing.assert_allclose(again, layer["__call__"][0], rtol=1e-4, atol=1e-6)

    # Both readings of it, from weights and gradients that are the model's.
    rolled = gathered = np.eye(tokens)[None]
    for weights, slope in zip(*attentions(model, variables), strict=True):
        assert np.abs(weights - 1 / tokens).max() > 0.01
        rolled = (weights.mean(1) + np.eye(tokens)) / 2 @ rolled
        gathered = gathered + np.maximum(weights * slope, 0).mean(1) @ gathered
    np.testing.assert_allclose(maps["rollout"], read(model, rolled), rtol=1e-4, atol=1e-6)
    wanted = read(model, gathered - np.eye(tokens))
    assert wanted.max() > 0
    np.testing.assert_allclose(maps["gradient_attention"], wanted, rtol=1e-3, atol=1e-6)


def test_grad_cam_is_that_of_the_gradient_through_the_model(monkeypatch):
    """Of both convolutional branches, in a model of all three."""
    monkeypatch.setattr(googlenet, "INCEPTIONS", {"inception5b": (2, 2, 2, 2, 2, 2)})
    target = jnp.array([2, 0], jnp.int32)
    last_maps = {"layer2_0": "grad_cam_resnet18", "inception5b": "grad_cam_googlenet"}
    with tiny_fusion(branches=("googlenet", "vit", "resnet18")) as model:
        variables = initialised(model)
        _, maps = look(model, variables, target)
        assert sorted(maps) == sorted([*last_maps.values(), "rollout", "gradient_attention"])

        def ask(nudges):
            kept = {}

            def watch(next_fun, args, kwargs, context):
                output = next_fun(*args, **kwargs)
                name = context.module.name
                if name in nudges:
                    output = kept[name] = output + nudges[name]
                return output

            with nn.intercept_methods(watch):
                logits = model.apply(variables, IMAGES, train=False).logits
            return sum(logits[row, target[row]] for row in range(2)), kept

        nudges = {name: jnp.zeros((2, 2, 2, 8)) for name in last_maps}
        slopes, last = jax.jit(jax.grad(ask, has_aux=True))(nudges)
        for name, key in last_maps.items():
            weights = slopes[name].mean((1, 2), keepdims=True)
            cam = np.maximum((np.asarray(last[name]) * np.asarray(weights)).sum(-1), 0)
            assert cam.max() > 0
            np.testing.assert_allclose(maps[key], cam, rtol=1e-4, atol=1e-6)


def test_layers_that_are_computed_twice_are_looked_at_all_the_same():
    with tiny_fusion(remat=True) as model:
        variables = initialised(model)
        looker = Looker(model, variables, SIDE, make_mesh(), 2)
        features, maps = looker.look(IMAGES)
        plain, expected = look(model.clone(remat=False), variables)
        assert sorted(maps) == sorted(expected)
        assert len(maps) == 3
        for found, wanted in ((features, plain), (maps, expected)):
            for name, rows in wanted.items():
                np.testing.assert_allclose(found[name], rows, rtol=1e-4, atol=1e-6)
        np.testing.assert_allclose(
            looker.head(features),
            nn.softmax(saliency.logits_of(model, variables, plain)),
            atol=1e-6,
        )


MAPS_OF = {
    "resnet18": ["grad_cam_resnet18"],
    "vit": ["rollout", "gradient_attention"],
    "googlenet": ["grad_cam_googlenet"],
}


@pytest.mark.parametrize("branch", MAPS_OF)
def test_a_single_branch_has_its_own_maps_alone(branch, monkeypatch):
    """In bfloat16 too, and float32 in any case."""
    monkeypatch.setattr(googlenet, "INCEPTIONS", {"inception5b": (2, 2, 2, 2, 2, 2)})
    with tiny_fusion(branches=(branch,), dtype=jnp.bfloat16) as model:
        shapes = functools.partial(jax.eval_shape, functools.partial(saliency.look, model))
        features, maps = shapes(initialised(model), IMAGES, ANSWER)
        assert sorted(maps) == sorted(MAPS_OF[branch])
        assert {rows.shape for rows in maps.values()} == {(2, 2, 2)}
        assert {rows.dtype for rows in [*features.values(), *maps.values()]} == {jnp.dtype("f4")}
