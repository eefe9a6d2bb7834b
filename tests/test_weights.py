import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jaxbusi.errors import UserError
from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import ViTSize
from jaxbusi.weights.timm import vit_from_timm
from jaxbusi.weights.torchvision import googlenet_from_torchvision, resnet18_from_torchvision
from tests.reference import shapes

SIZE = ViTSize(patch=8, width=16, depth=2, heads=2, mlp=32, class_token=True, layer_scale=True)


def _state(named: shapes.Shapes) -> dict[str, np.ndarray]:
    """Empty tensors that take no memory."""
    return {name: np.broadcast_to(np.float16(1), shape) for name, shape in named.items()}


def _expected(branch: str) -> dict:
    model = Classifier((branch,), vit=SIZE, num_classes=5)
    images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.uint8)
    variables = jax.eval_shape(lambda x: model.init(jax.random.key(0), x, train=False), images)
    return {name: tree[branch] for name, tree in variables.items() if branch in tree}


def _assert_same_shapes(actual: dict, expected: dict) -> None:
    assert jax.tree.structure(actual) == jax.tree.structure(expected)
    for ours, theirs in zip(jax.tree.leaves(actual), jax.tree.leaves(expected), strict=True):
        assert (ours.shape, ours.dtype) == (theirs.shape, theirs.dtype)


def test_resnet18_fills_the_whole_branch() -> None:
    head = {"fc.weight": (1000, 512), "fc.bias": (1000,), "bn1.num_batches_tracked": ()}
    converted = resnet18_from_torchvision(_state(shapes.resnet18_shapes() | head))
    _assert_same_shapes(converted.variables, _expected("resnet18"))
    assert sorted(converted.dropped) == sorted(head)


def test_googlenet_fills_the_whole_branch_with_its_auxiliary_heads() -> None:
    state = _state(shapes.googlenet_shapes(5) | {"fc.weight": (5, 1024), "fc.bias": (5,)})
    converted = googlenet_from_torchvision(state, auxiliary=True)
    _assert_same_shapes(converted.variables, _expected("googlenet"))
    assert sorted(converted.dropped) == ["fc.bias", "fc.weight"]
    without = googlenet_from_torchvision(state, auxiliary=False)
    assert "aux1" not in without.variables["params"]
    assert "aux2.fc2.bias" in without.dropped


def test_vit_fills_the_whole_branch() -> None:
    state = _state(shapes.vit_shapes(SIZE, 32) | {"head.weight": (7, 16), "head.bias": (7,)})
    converted = vit_from_timm(state)
    _assert_same_shapes(converted.variables, _expected("vit"))
    assert sorted(converted.dropped) == ["head.bias", "head.weight"]


def test_every_missing_and_unknown_name_is_reported() -> None:
    state = _state(shapes.vit_shapes(SIZE, 32))
    state["blocks.0.attn.q_norm.weight"] = state.pop("blocks.1.mlp.fc2.bias")
    state["fc_norm.weight"] = state.pop("norm.weight")
    with pytest.raises(UserError) as caught:
        vit_from_timm(state)
    missing, unknown = str(caught.value).split("; unknown ")
    assert "missing 2 (norm.weight, blocks.1.mlp.fc2.bias)" in missing
    assert unknown == "2 (blocks.0.attn.q_norm.weight, fc_norm.weight)"


def test_another_architecture_is_refused() -> None:
    with pytest.raises(UserError, match="not those of torchvision's ResNet18: missing 100 "):
        resnet18_from_torchvision(_state({"conv9.weight": (1,)}))
