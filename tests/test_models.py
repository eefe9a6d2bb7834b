import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jaxbusi.errors import UserError
from jaxbusi.models.batch_norm import BatchNorm
from jaxbusi.models.fusion import Classifier, Head, vit_size
from jaxbusi.models.googlenet import AuxiliaryHead
from jaxbusi.models.pooling import adaptive_average_pool, max_pool
from jaxbusi.models.vit import SIZES, ViT, ViTSize, exact_gelu
from tests.tiny import weights_of

TINY = ViTSize(patch=8, width=16, depth=2, heads=2, mlp=32)
TINY_TOKEN = dataclasses.replace(TINY, class_token=True, layer_scale=True)


def _images(batch: int, size: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, 256, (batch, size, size, 3), dtype=np.uint8)


def _shapes(model: Classifier, size: int = 64) -> dict:
    """Parameters and statistics as shapes: nothing is computed."""
    images = jax.ShapeDtypeStruct((2, size, size, 3), jnp.uint8)
    init = lambda x: model.init(jax.random.key(0), x, train=False)  # noqa: E731
    return jax.eval_shape(init, images)


def _count(tree: dict) -> int:
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(tree))


@pytest.fixture(scope="module")
def tiny() -> tuple[Classifier, dict]:
    """A small transformer alone, with its variables."""
    model = Classifier(("vit",), vit=TINY_TOKEN, pooling="both", hidden=(8,))
    return model, weights_of(model, _images(1, 16))


@pytest.fixture(scope="module")
def fusion() -> tuple[Classifier, dict]:
    """ResNet18 and a small transformer, in an order that is not the alphabet's."""
    model = Classifier(("vit", "resnet18"), vit=TINY, hidden=(8,))
    return model, weights_of(model, _images(1, 32))


def test_parameter_counts() -> None:
    """torchvision's numbers: resnet18 11,689,512 and googlenet 6,624,904, less their `fc`."""
    params = _shapes(Classifier(("resnet18", "vit", "googlenet")), 224)["params"]
    assert set(params) == {"resnet18", "vit", "googlenet", "head"}
    assert _count(params["resnet18"]) == 11_689_512 - 513_000 == 11_176_512
    googlenet = {k: v for k, v in params["googlenet"].items() if not k.startswith("aux")}
    assert _count(googlenet) == 6_624_904 - 1_025_000
    layers = {k: v for k, v in params["vit"].items() if k.startswith("layer_")}
    assert len(layers) == 12
    assert _count(layers) == 85_054_464  # the paper's "85 M"
    assert _count(params["head"]) == (2304 + 1) * 512 + (512 + 1) * 128 + (128 + 1) * 3
    assert params["vit"]["position_embedding"].shape == (1, 196, 768)


@pytest.mark.parametrize(
    ("name", "image", "count"),
    [
        # timm's vit_*_patch16_224 without head, class token and its position.
        ("Ti16", 224, 5_524_416 - 2 * 192),
        ("S16", 224, 21_665_664 - 2 * 384),
        # DINOv2's published small backbone without its mask token.
        ("S14", 518, 22_056_576 - 384),
    ],
)
def test_vit_sizes(name: str, image: int, count: int) -> None:
    assert _count(_shapes(Classifier(("vit",), vit=name), image)["params"]["vit"]) == count


def test_paper_model() -> None:
    shapes = _shapes(Classifier(), 224)
    assert 97e6 < _count(shapes["params"]) < 98e6
    assert shapes["params"]["head"]["hidden_0"]["kernel"].shape == (1280, 512)
    assert shapes["params"]["head"]["hidden_1"]["kernel"].shape == (512, 128)
    assert shapes["params"]["head"]["logits"]["kernel"].shape == (128, 3)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {np.dtype(np.float32)}
    assert set(shapes["batch_stats"]) == {"resnet18"}


def test_features_enter_the_head_in_the_order_of_the_branches(
    fusion: tuple[Classifier, dict],
) -> None:
    model, variables = fusion
    output = jax.jit(model.apply, static_argnames="train")(variables, _images(2, 32), train=False)
    assert {name: x.shape for name, x in output.features.items()} == {
        "vit": (2, 16),
        "resnet18": (2, 512),
    }
    joined = jnp.concatenate([output.features["vit"], output.features["resnet18"]], axis=1)
    head = Head((8,), 3).apply({"params": variables["params"]["head"]}, joined, train=False)
    np.testing.assert_allclose(output.logits, head, atol=1e-5)


def test_uint8_and_float_images_agree(tiny: tuple[Classifier, dict]) -> None:
    model, variables = tiny
    images = _images(3, 16)
    expected = model.apply(variables, images, train=False).logits
    for dtype in (np.float32, jnp.bfloat16):  # bfloat16 holds the integers up to 255
        actual = model.apply(variables, images.astype(dtype), train=False).logits
        np.testing.assert_array_equal(actual, expected)


def test_normalization_is_per_branch(tiny: tuple[Classifier, dict]) -> None:
    """Other statistics on rescaled images give what ImageNet's gave on the images themselves."""
    model, variables = tiny
    images = _images(2, 16).astype(np.float32)
    mean, std = (0.3, 0.4, 0.5), (0.1, 0.2, 0.3)
    scaled = (images / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    other = ((scaled * std + mean) * 255).astype(np.float32)
    model_other = model.clone(normalization=(("vit", mean, std), ("resnet18", std, mean)))
    np.testing.assert_allclose(
        model_other.apply(variables, other, train=False).logits,
        model.apply(variables, images, train=False).logits,
        atol=1e-5,
    )


def test_bfloat16_computes_but_does_not_store() -> None:
    model = Classifier(("resnet18", "vit", "googlenet"), vit=TINY_TOKEN, dtype=jnp.bfloat16)
    images = _images(2, 32)

    def forward() -> tuple:
        variables = model.init(jax.random.key(0), images, train=True)
        output, updates = model.apply(
            variables,
            images,
            train=True,
            mutable=["batch_stats"],
            rngs={"dropout": jax.random.key(1)},
        )
        return variables, output, updates

    shapes = jax.eval_shape(forward)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} <= {
        np.dtype(np.float32),
        jax.random.key(0).dtype,
    }
    assert [x.shape for x in shapes[1].auxiliary] == [(2, 3), (2, 3)]


def test_bfloat16_is_near_float32(tiny: tuple[Classifier, dict]) -> None:
    model, variables = tiny
    images = _images(2, 16)
    narrow = model.clone(dtype=jnp.bfloat16).apply(variables, images, train=False).logits
    wide = model.apply(variables, images, train=False).logits
    assert narrow.dtype == jnp.float32
    assert 0 < np.abs(narrow - wide).max() < 0.05


def test_sharded_batch_equals_single_device(fusion: tuple[Classifier, dict]) -> None:
    """In training too: the batch statistics are those of all devices' images together."""
    model, variables = fusion
    images = _images(4, 32)

    @jax.jit
    def forward(variables, images):
        output, updates = model.apply(variables, images, train=True, mutable=["batch_stats"])
        return output.logits, updates

    expected = forward(variables, images)
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Auto,))
    batch = jax.device_put(images, NamedSharding(mesh, PartitionSpec("data")))
    copies = jax.device_put(variables, NamedSharding(mesh, PartitionSpec()))
    logits, updates = forward(copies, batch)
    assert len(logits.sharding.device_set) == 2
    np.testing.assert_allclose(logits, expected[0], atol=1e-5)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), updates, expected[1])


def test_dropout_is_drawn_in_training_only(tiny: tuple[Classifier, dict]) -> None:
    model, variables = tiny
    model = model.clone(dropout=0.5)
    images = _images(2, 16)
    logits = [
        model.apply(variables, images, train=True, rngs={"dropout": jax.random.key(i)}).logits
        for i in (0, 0, 1)
    ]
    np.testing.assert_array_equal(logits[0], logits[1])
    assert np.abs(logits[0] - logits[2]).max() > 0
    plain = model.clone(dropout=0.0)
    np.testing.assert_array_equal(
        model.apply(variables, images, train=False).logits,
        plain.apply(variables, images, train=True).logits,
    )


def test_head_without_hidden_layers_is_linear() -> None:
    head = Head((), 3)
    params = head.init(jax.random.key(0), jnp.ones((1, 5)), train=False)["params"]
    assert set(params) == {"logits"}
    assert np.abs(params["logits"]["kernel"]).max() <= 5**-0.5
    assert np.abs(params["logits"]["bias"]).max() <= 5**-0.5


def test_auxiliary_heads_drop_out() -> None:
    head = AuxiliaryHead(3)
    x = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 5, 8)), jnp.float32)
    variables = head.init(jax.random.key(0), x, train=False)
    outputs = [
        head.apply(
            variables, x, train=True, mutable=["batch_stats"], rngs={"dropout": jax.random.key(i)}
        )[0]
        for i in (0, 1)
    ]
    assert np.abs(outputs[0] - outputs[1]).max() > 0


def test_batch_norm_refuses_one_value_per_channel() -> None:
    layer = BatchNorm()
    x = jnp.ones((1, 1, 1, 4))
    variables = layer.init(jax.random.key(0), x, train=False)
    with pytest.raises(UserError, match=r"config\.batch_size"):
        layer.apply(variables, x, train=True, mutable=["batch_stats"])


@pytest.mark.parametrize("offset", [0.0, 1000.0])
def test_batch_norm_by_hand(offset: float) -> None:
    x = np.random.default_rng(0).normal(offset, 2.0, (3, 2, 2, 4)).astype(np.float32)
    layer = BatchNorm(epsilon=1e-5, momentum=0.9)
    variables = layer.init(jax.random.key(0), x, train=False)
    y, updates = layer.apply(variables, x, train=True, mutable=["batch_stats"])
    flat = x.reshape(-1, 4).astype(np.float64)
    expected = (x - flat.mean(0)) / np.sqrt(flat.var(0) + 1e-5)
    np.testing.assert_allclose(y, expected, atol=1e-3 if offset else 1e-5)
    stats = updates["batch_stats"]
    np.testing.assert_allclose(stats["mean"], 0.1 * flat.mean(0), rtol=1e-5)
    np.testing.assert_allclose(stats["var"], 0.9 + 0.1 * flat.var(0, ddof=1), rtol=1e-5)


@pytest.mark.parametrize(
    ("size", "window", "stride", "padding", "ceil_mode", "expected"),
    [
        (7, 3, 2, 1, False, [1, 3, 5, 6]),
        (6, 3, 2, 0, False, [2, 4]),
        (6, 3, 2, 0, True, [2, 4, 5]),  # the last window hangs over the border
        (5, 2, 2, 0, True, [1, 3, 4]),
        (3, 2, 2, 1, True, [0, 2]),  # torch drops the window that would begin in the padding
        (4, 3, 1, 1, True, [1, 2, 3, 3]),
    ],
)
def test_max_pool(
    size: int, window: int, stride: int, padding: int, ceil_mode: bool, expected: list[int]
) -> None:
    """Expected by torch's formula for the output size; padding never wins, even over negatives."""
    ramp = jnp.arange(size, dtype=jnp.float32) - 100.0
    x = jnp.broadcast_to(ramp[None, None, :, None], (1, size, size, 1))
    y = max_pool(x, window=window, stride=stride, padding=padding, ceil_mode=ceil_mode)
    assert y.shape == (1, len(expected), len(expected), 1)
    np.testing.assert_array_equal(y[0, 0, :, 0] + 100.0, expected)


def test_max_pool_as_torch_where_values_are_equal_or_not_numbers() -> None:
    x = jnp.asarray([[1.0, 3.0, 3.0, 0.0], [3.0, 2.0, 0.0, 0.0]])[None, :, :, None]
    gradient = jax.grad(lambda x: max_pool(x, window=2, stride=2).sum())(x)
    np.testing.assert_array_equal(gradient[0, :, :, 0], [[0, 1, 1, 0], [0, 0, 0, 0]])
    for place in range(4):
        broken = x.at[0, place // 2, place % 2, 0].set(jnp.nan)
        y = max_pool(broken, window=2, stride=2)
        assert jnp.isnan(y[0, 0, 0, 0])
        assert y[0, 0, 1, 0] == 3.0


@pytest.mark.parametrize(
    ("length", "bins"),
    [
        (14, [(0, 4), (3, 7), (7, 11), (10, 14)]),
        (4, [(0, 1), (1, 2), (2, 3), (3, 4)]),
        (2, [(0, 1), (0, 1), (1, 2), (1, 2)]),
    ],
)
def test_adaptive_average_pool(length: int, bins: list[tuple[int, int]]) -> None:
    x = np.random.default_rng(0).normal(size=(2, length, length, 3)).astype(np.float32)
    expected = [[x[:, a:b, c:d].mean((1, 2)) for c, d in bins] for a, b in bins]
    actual = adaptive_average_pool(jnp.asarray(x), 4)
    np.testing.assert_allclose(actual, np.moveaxis(expected, 2, 0), atol=1e-6)


def test_gelu_is_exact() -> None:
    x = np.linspace(-6, 6, 101)
    expected = [v * (1 + math.erf(v / math.sqrt(2))) / 2 for v in x]
    np.testing.assert_allclose(exact_gelu(jnp.asarray(x, jnp.float32)), expected, atol=1e-6)


def test_vit_accepts_oblong_images_and_keeps_their_grid() -> None:
    model = ViT(TINY)
    variables = model.init(jax.random.key(0), jnp.zeros((1, 16, 24, 3)))
    assert variables["params"]["position_embedding"].shape == (1, 6, 16)
    assert model.apply(variables, jnp.zeros((2, 16, 24, 3))).shape == (2, 16)


def test_layers_computed_again_are_the_same_layers_in_less_memory() -> None:
    model = Classifier(("vit",), vit=dataclasses.replace(TINY_TOKEN, depth=5))
    images = _images(16, 32)
    variables = weights_of(model, images)
    again = dataclasses.replace(model, remat=True)
    assert jax.tree.structure(variables) == jax.tree.structure(_shapes(again))

    def program(model: Classifier) -> jax.stages.Compiled:
        def squares(params: dict) -> jax.Array:
            return jnp.sum(model.apply({"params": params}, images, train=True).logits ** 2)

        return jax.jit(jax.value_and_grad(squares)).lower(variables["params"]).compile()

    programs = [program(m) for m in (model, again)]
    results = [program(variables["params"]) for program in programs]
    for one, two in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-6)
    held = [program.memory_analysis().temp_size_in_bytes for program in programs]
    assert held[1] < 0.7 * held[0]


def test_class_token_can_be_given_and_taken() -> None:
    given = _shapes(Classifier(("vit",), vit=TINY, class_token=True, pooling="class"))["params"]
    taken = _shapes(Classifier(("vit",), vit=TINY_TOKEN, class_token=False))["params"]
    assert given["vit"]["position_embedding"].shape == (1, 65, 16)
    assert taken["vit"]["position_embedding"].shape == (1, 64, 16)
    assert "class_token" in given["vit"]
    assert "class_token" not in taken["vit"]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"branches": ()}, r"config\.model\.branches is empty"),
        ({"branches": ("resnet",)}, r"config\.model\.branches has no 'resnet'.*'resnet18'\?"),
        ({"branches": ("ViT",)}, r"did you mean 'vit'\?"),
        ({"branches": ("zzz",)}, r"known are \['resnet18', 'vit', 'googlenet'\]$"),
        ({"branches": ("vit", "vit")}, r"config\.model\.branches=.*twice"),
        ({"vit": "b16"}, r"config\.model\.vit has no 'b16': known are .*mean 'B16'\?"),
        ({"pooling": "max"}, r"config\.model\.pooling='max' is unknown.*'both'"),
        ({"pooling": "class"}, r"config\.model\.pooling='class' needs a class token"),
        ({"normalization": (("vti", (0,) * 3, (1,) * 3),)}, r"did you mean 'vit'\?"),
    ],
)
def test_bad_settings_are_refused_on_construction(settings: dict, message: str) -> None:
    with pytest.raises(UserError, match=message) as caught:
        Classifier(**settings)
    assert "\n" not in str(caught.value)


def test_bad_image_size_is_refused() -> None:
    with pytest.raises(UserError, match=r"config\.model\.vit has patches of 14 .*224x230"):
        ViT(SIZES["S14"]).init(jax.random.key(0), jnp.zeros((1, 224, 230, 3)))


def test_vit_size_by_name() -> None:
    assert vit_size("B16").width == 768
