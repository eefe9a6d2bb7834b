"""JAX to ONNX: each primitive, each model, and what is refused, against JAX itself."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import onnx
import onnxruntime
import pytest
from jax import lax

from jaxbusi.errors import UserError
from jaxbusi.export.onnx_model import to_onnx
from jaxbusi.export.onnx_primitives import PRIMITIVES
from jaxbusi.export.program import Program
from jaxbusi.export.stablehlo import run_stablehlo, to_stablehlo
from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import ViTSize

TINY = ViTSize(patch=8, width=16, depth=2, heads=2, mlp=32)
TINY_TOKEN = dataclasses.replace(TINY, class_token=True, layer_scale=True)

KERNEL = np.random.default_rng(1).normal(size=(3, 2, 3, 5)).astype(np.float32)
MATRIX = np.random.default_rng(2).normal(size=(4, 5)).astype(np.float32)


def conv(x, *, strides=(1, 1), padding="VALID", dilation=(1, 1), groups=1):
    return lax.conv_general_dilated(
        x,
        jnp.asarray(KERNEL[:, :, : 3 // groups].repeat(groups, axis=3)),
        strides,
        padding,
        rhs_dilation=dilation,
        feature_group_count=groups,
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
    )


def stretched(x):
    """A row of constants for every image, which an operator that does not broadcast then reads."""
    row = jnp.broadcast_to(jnp.asarray(MATRIX[None]), (x.shape[0], 4, 5))
    return jnp.concatenate([row, x], axis=1).sum(1)


CASES = {
    "add": [(lambda x: x + x * 2, (4, 5)), (lambda x: 1.5 + x, (3,))],
    "broadcast_in_dim": [
        (stretched, (4, 5)),
        (lambda x: jnp.broadcast_to(x[:, None], (x.shape[0], 3, 4)).sum(2), (4,)),
        (lambda x: jnp.broadcast_to(x.mean(1, keepdims=True), x.shape), (4, 5)),
    ],
    "concatenate": [(lambda x: jnp.concatenate([x, x * 2], axis=1), (4, 5))],
    "conv_general_dilated": [
        (conv, (7, 6, 3)),
        (lambda x: conv(x, strides=(2, 3), padding=((1, 2), (0, 1))), (8, 9, 3)),
        (lambda x: conv(x, dilation=(2, 1), padding="SAME"), (8, 9, 3)),
        (lambda x: conv(x, groups=3), (7, 6, 3)),
    ],
    "convert_element_type": [(lambda x: (x > 0).astype(jnp.float32), (3,))],
    "div": [(lambda x: x / (2 + x * x), (4,))],
    "dot_general": [
        (lambda x: x @ jnp.asarray(MATRIX), (4,)),
        (lambda x: jnp.einsum("bqhd,bkhd->bhqk", x, x), (3, 2, 4)),
        (
            lambda x: jnp.einsum("bhqk,bkhd->bqhd", jnp.einsum("bqhd,bkhd->bhqk", x, x), x),
            (3, 2, 4),
        ),
    ],
    "erf": [(lambda x: lax.erf(x * 3), (50,))],
    "exp": [(lambda x: jnp.exp(x), (5,))],
    "gather": [
        (lambda x: x[:, 2], (4, 5)),
        (lambda x: x[:, 1:], (4, 5)),
        (lambda x: x[:, :, 4], (4, 5)),
    ],
    "gt": [(lambda x: jnp.where(x > 0, x, 2 * x), (9,))],
    "max": [(lambda x: jax.nn.relu(x), (9,)), (lambda x: jnp.maximum(x, x * x), (9,))],
    "mul": [(lambda x: x * jnp.asarray(MATRIX[None]), (4, 5))],
    "ne": [(lambda x: jnp.where(x != 1, x, 5), (9,)), (lambda x: jnp.where(x != x, 1, x), (9,))],
    "or": [(lambda x: jnp.where((x > 1) | (x != x), x, 0), (9,))],
    "pad": [
        (lambda x: jnp.pad(x, ((0, 0), (1, 2), (0, 3)), constant_values=-1.5), (4, 5)),
        (lambda x: jnp.pad(x, ((0, 0), (1, 1)), constant_values=-jnp.inf).max(1), (4,)),
    ],
    "reduce_max": [(lambda x: x.max(2), (4, 5)), (lambda x: x.max((1, 2)), (4, 5))],
    "reduce_sum": [(lambda x: x.sum(1), (4, 5)), (lambda x: x.mean((1, 2)), (4, 5, 3))],
    "reshape": [
        (lambda x: x.reshape(-1, 5), (4, 5)),
        (lambda x: x.reshape(-1, 5).reshape(x.shape[0], 2, 10), (4, 5)),
    ],
    "rsqrt": [(lambda x: lax.rsqrt(1 + x * x), (5,))],
    "select_n": [(lambda x: jnp.where(x > 0.5, x, -1.0), (9,))],
    "slice": [
        (lambda x: lax.slice(x, (0, 1, 0), (x.shape[0], 4, 5), (1, 2, 3)), (4, 5)),
    ],
    "square": [(lambda x: jnp.square(x), (5,))],
    "stop_gradient": [(lambda x: jax.nn.softmax(x * 30), (5,))],
    "sub": [(lambda x: x - x.mean(1, keepdims=True), (5,))],
    "transpose": [(lambda x: x.transpose(0, 3, 1, 2), (4, 5, 3))],
}


def primitives(jaxpr):
    found = set()
    for equation in jaxpr.eqns:
        found.add(equation.primitive.name)
        for value in equation.params.values():
            if hasattr(value, "jaxpr"):
                found |= primitives(value.jaxpr)
    return found


def converted(function, weights, example):
    model = to_onnx(function, weights, example)
    onnx.checker.check_model(model, full_check=True)
    session = onnxruntime.InferenceSession(model.SerializeToString())
    return lambda x: session.run(["probabilities"], {"images": x})[0]


def test_every_primitive_has_its_cases():
    assert set(CASES) == set(PRIMITIVES)


@pytest.mark.parametrize("name", CASES)
def test_primitives(name):
    for function, shape in CASES[name]:
        (batch,) = jax.export.symbolic_shape("batch")
        traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((batch, *shape), jnp.float32))
        assert name in primitives(traced.jaxpr)
        example = jax.ShapeDtypeStruct((1, *shape), jnp.float32)
        run = converted(lambda _, x, function=function: function(x), {}, example)
        for batch in (1, 3):
            x = np.random.default_rng(batch).normal(size=(batch, *shape)).astype(np.float32)
            wanted = np.asarray(jax.jit(function)(x))
            assert run(x).shape == wanted.shape
            np.testing.assert_allclose(run(x), wanted, rtol=1e-5, atol=1e-6)


def test_not_a_number_is_kept_apart():
    run = converted(
        lambda _, x: jnp.where(x != x, 1.0, 0.0), {}, jax.ShapeDtypeStruct((1, 3), jnp.float32)
    )
    np.testing.assert_array_equal(run(np.array([[np.nan, 1, np.inf]], np.float32)), [[1, 0, 0]])


def test_bytes_and_weights():
    """What depends on the weights alone is a constant of the model, not an operator."""
    weights = {"scale": np.float32([1, 4]), "shift": np.float32([0.5, -1])}

    def function(weights, x):
        factor = lax.rsqrt(weights["scale"]).reshape(1, 2)
        return x.astype(jnp.float32) * factor + jnp.exp(weights["shift"]).reshape(1, 2)

    example = jax.ShapeDtypeStruct((1, 2), jnp.uint8)
    operators = [node.op_type for node in to_onnx(function, weights, example).graph.node]
    assert operators == ["Cast", "Mul", "Add", "Identity"]
    found = converted(function, weights, example)(np.array([[2, 200]], np.uint8))
    np.testing.assert_allclose(found, [[2 + math.exp(0.5), 100 + math.exp(-1)]], rtol=1e-6)


@pytest.mark.parametrize(
    ("function", "words"),
    [
        (lambda _, x: jnp.sin(x), "computes sin, which"),
        (lambda _, x: lax.scan(lambda c, _: (c * x, None), x, None, length=2)[0], "computes scan"),
        (lambda _, x: jnp.einsum("bij,kij->bk", x, jnp.asarray(MATRIX[None])), "over 2 axes"),
        (lambda _, x: lax.slice_in_dim(x, 0, x.shape[0] - 1), "slice along the batch"),
        (lambda _, x: x[0][jnp.argsort(x[0, :, 0])], "computes "),
        (lambda _, x: lax.pad(x, 0.0, ((0, 0, 0), (0, 0, 1), (0, 0, 0))), "pad within"),
        (lambda _, x: lax.pad(x, 0.0, ((0, 0, 0), (-1, 0, 0), (0, 0, 0))), "less than nothing"),
        (lambda _, x: jnp.concatenate([jnp.zeros((2 * x.shape[0], 4, 5)), x]), r"2\*batch"),
    ],
)
def test_what_has_no_counterpart_is_refused(function, words):
    with pytest.raises(UserError, match=words) as raised:
        to_onnx(function, {}, jax.ShapeDtypeStruct((1, 4, 5), jnp.float32))
    assert "--format stablehlo" in str(raised.value)


def random_program(model, size):
    """A program with weights of which none is 0 or 1, as a mistake may leave those alone."""
    rng = np.random.default_rng(0)
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    shapes = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)

    def draw(path, leaf):
        name = jax.tree_util.keystr(path)
        if "var" in name or "scale" in name or "gamma" in name:
            return rng.uniform(0.5, 1.5, leaf.shape).astype(np.float32)
        fan_in = math.prod(leaf.shape[:-1]) if "kernel" in name else 25
        return (rng.normal(size=leaf.shape) / math.sqrt(fan_in)).astype(np.float32)

    variables = jax.tree.map_with_path(draw, shapes)
    settings = dataclasses.make_dataclass("S", ["data"])
    run = dataclasses.make_dataclass("R", ["model", "variables", "settings"])
    crop = dataclasses.make_dataclass("A", ["augment"])(
        dataclasses.make_dataclass("C", ["crop"])(size)
    )
    return Program.of(run(model, variables, settings(crop))), variables


MODELS = {
    "GoogLeNet": Classifier(("googlenet",), hidden=()),
    "ViT": Classifier(("vit",), vit=TINY, hidden=(8,)),
    "ViT, class token": Classifier(("vit",), vit=TINY_TOKEN, pooling="class", hidden=(8,)),
    "ViT, both, remat": Classifier(("vit",), vit=TINY_TOKEN, pooling="both", remat=True),
    "fusion": Classifier(
        ("resnet18", "vit"), vit="Ti16", normalization=(("vit", (0.5,) * 3, (0.4, 0.5, 0.6)),)
    ),
}


@pytest.mark.parametrize("name", MODELS)
def test_models(name):
    program, variables = random_program(MODELS[name], 32)
    run = converted(program.probabilities, program.weights, program.images)
    x = np.random.default_rng(1).integers(0, 256, (3, 32, 32, 3), np.uint8)
    apply = jax.jit(
        lambda v, x: jax.nn.softmax(MODELS[name].apply(v, x, train=False).logits),
        compiler_options={"xla_backend_optimization_level": 0},  # runs once
    )
    wanted = np.asarray(apply(variables, x))
    assert np.ptp(wanted, axis=0).max() > 1e-3  # it does look at the images
    np.testing.assert_allclose(run(x), wanted, atol=2e-6)
    np.testing.assert_allclose(run(x[:1]), wanted[:1], atol=2e-6)
    if name == "GoogLeNet":
        assert {"aux1", "aux2"} <= set(variables["params"]["googlenet"])
        assert not [name for name in program.weights if "aux" in name]
    if name == "ViT, both, remat":
        serialised = to_stablehlo(program)
        np.testing.assert_allclose(run_stablehlo(serialised, program.weights, x), wanted, atol=2e-6)
