"""Public checkpoint formats: seeded weights under each origin's names, and the origin's features.

The origins are torchvision's geometry and timm's (tests/reference), Hugging Face's own models, and,
for Google's files, Flax's own attention in big_vision's arrangement. What needs PyTorch is recorded
by `scripts/record_parity.py`.
"""

import dataclasses
import functools
import hashlib
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from jaxbusi.models.vit import ViTSize
from tests.reference import shapes
from tests.reference.results import RECORDED

State = dict[str, np.ndarray]

PLAIN = ViTSize(patch=16, width=32, depth=2, heads=4, mlp=128)
TOKEN = dataclasses.replace(PLAIN, class_token=True)
DINO = dataclasses.replace(TOKEN, patch=14, layer_scale=True)

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
HALF = ((0.5,) * 3, (0.5,) * 3)


@dataclasses.dataclass(frozen=True)
class Format:
    """One kind of public checkpoint.

    Attributes:
      name: of the test and the recorded arrays.
      branch: where it belongs.
      statistics: mean and std that its images are normalised with.
      state: seeded weights, with what is dropped, under the origin's names.
      features: f32[B, d] of the origin for f32[B, S, S, 3] on 0 … 1; of a transformer the class
        token (where there is one) and the mean of the patches.
      size: of the transformer.
      live: whether `features` needs PyTorch.
      sizes: of the images, pixels; the first is that of the checkpoint's grid.
    """

    name: str
    branch: str
    statistics: tuple[tuple[float, ...], tuple[float, ...]]
    state: Callable[[], State]
    features: Callable[[np.ndarray], np.ndarray]
    size: ViTSize = PLAIN
    live: bool = True
    sizes: tuple[int, int] = (224, 160)


def images(side: int) -> np.ndarray:
    """uint8[2, side, side, 3]: coarse structure under noise."""
    rng = np.random.default_rng(side)
    coarse = rng.uniform(0, 200, (2, 4, 4, 3)).repeat(side // 4, 1).repeat(side // 4, 2)
    padded = np.pad(coarse, ((0, 0), (0, side % 4), (0, side % 4), (0, 0)))
    return (padded + rng.uniform(0, 55, padded.shape)).astype(np.uint8)


def _seeded(named: shapes.Shapes, seed: str) -> State:
    """Nothing stays at 0 or 1, where a factor or a term that is missing would not show."""
    state = {}
    for name, shape in named.items():
        rng = np.random.default_rng([zlib.crc32(seed.encode()), zlib.crc32(name.encode())])
        if name.endswith("running_var"):
            values = rng.uniform(1.0, 2.0, shape)
        elif name.endswith(("running_mean", ".bias")):
            values = rng.normal(0, 0.1, shape)
        elif name.endswith(("cls_token", "pos_embed")):
            values = rng.normal(0, 0.5, shape)
        elif len(shape) == 1:
            values = rng.uniform(0.5, 1.5, shape)
        else:
            gain = 2.0 if len(shape) == 4 else 1.0
            values = rng.normal(0, (gain / np.prod(shape[1:])) ** 0.5, shape)
        state[name] = values.astype(np.float32)
    return state


def _vit_state(size: ViTSize) -> State:
    """Under timm's names, without a head, at 224 pixels."""
    return _seeded(shapes.vit_shapes(size, 224), "vit")


def _head(name: str, inputs: int, classes: int = 10) -> shapes.Shapes:
    return {f"{name}.weight": (classes, inputs), f"{name}.bias": (classes,)}


def _normalised(
    x: np.ndarray, statistics: tuple[tuple[float, ...], tuple[float, ...]]
) -> np.ndarray:
    mean, std = (np.asarray(values, np.float32) for values in statistics)
    return (x - mean) / std


# --- torchvision and timm: modules of tests/reference ------------------------------------------


def torchvision_resnet18() -> State:
    """torchvision's ResNet18 with a head of 10 classes."""
    state = _seeded(shapes.resnet18_shapes() | _head("fc", 512), "resnet18")
    return state | {"bn1.num_batches_tracked": np.array(7)}


def _torchvision_googlenet() -> State:
    return _seeded(shapes.googlenet_shapes(10) | _head("fc", 1024), "googlenet")


def _timm() -> State:
    return _vit_state(TOKEN) | _seeded(_head("head", TOKEN.width), "head")


def _run(module: object, state: State, x: np.ndarray) -> np.ndarray:
    """The module's output in evaluation, for its own names of `state` and NHWC images."""
    import torch

    assert isinstance(module, torch.nn.Module)
    own = {name: torch.from_numpy(state[name]) for name in module.state_dict() if name in state}
    module.load_state_dict(own, strict=False)
    missing = set(module.state_dict()) - set(own)
    assert all(name.endswith("num_batches_tracked") for name in missing), missing
    module.eval()
    with torch.no_grad():
        output = module(torch.from_numpy(x).permute(0, 3, 1, 2))
    return (output[0] if isinstance(output, tuple) else output).numpy()


def _resnet18_features(x: np.ndarray) -> np.ndarray:
    from tests.reference.resnet import ResNet18

    return _run(ResNet18(), torchvision_resnet18(), _normalised(x, IMAGENET))


def _googlenet_features(x: np.ndarray) -> np.ndarray:
    from tests.reference.googlenet import GoogLeNet

    # As torchvision: images normalised with ImageNet's statistics, then `_transform_input`.
    y = _normalised(x, IMAGENET)
    mean, std = (np.asarray(values, np.float32) for values in IMAGENET)
    y = y * (std / 0.5) + (mean - 0.5) / 0.5
    return _run(GoogLeNet(10), _torchvision_googlenet(), y)


def torch_positions(positions: np.ndarray, grid: int, *, class_token: bool) -> np.ndarray:
    """`interpolate(mode='bicubic', align_corners=False)` of the patches' grid; needs PyTorch."""
    import torch

    first, rest = np.split(positions, [int(class_token)], axis=1)
    side = round(rest.shape[1] ** 0.5)
    square = torch.from_numpy(rest).reshape(1, side, side, -1).permute(0, 3, 1, 2)
    resized = torch.nn.functional.interpolate(square, (grid, grid), mode="bicubic")
    flat = resized.permute(0, 2, 3, 1).reshape(1, grid * grid, -1).numpy()
    return np.concatenate([first, flat], axis=1)


def _timm_features(x: np.ndarray) -> np.ndarray:
    from tests.reference.vit import VisionTransformer

    state, side = _timm(), x.shape[1]
    positions = torch_positions(state["pos_embed"], side // 16, class_token=True)
    module = VisionTransformer(TOKEN, "both", side)
    return _run(module, state | {"pos_embed": positions}, _normalised(x, HALF))


# --- Hugging Face ------------------------------------------------------------------------------


def huggingface_names(state: State, size: ViTSize, *, layer: str, classic: bool) -> State:
    """timm's names to Hugging Face's: `layer` holds the encoder's, `classic` before version 5."""
    renamed = {
        "embeddings.cls_token": state["cls_token"],
        "embeddings.position_embeddings": state["pos_embed"],
        "embeddings.patch_embeddings.projection.weight": state["patch_embed.proj.weight"],
        "embeddings.patch_embeddings.projection.bias": state["patch_embed.proj.bias"],
        "layernorm.weight": state["norm.weight"],
        "layernorm.bias": state["norm.bias"],
    }
    norms = ("norm1", "norm2") if size.layer_scale else ("layernorm_before", "layernorm_after")
    mlp = ("intermediate.dense", "output.dense") if classic else ("mlp.fc1", "mlp.fc2")
    mlp = ("mlp.fc1", "mlp.fc2") if size.layer_scale else mlp
    for i in range(size.depth):
        old, new = f"blocks.{i}", f"{layer}.{i}"
        for leaf in ("weight", "bias"):
            parts = np.split(state[f"{old}.attn.qkv.{leaf}"], 3)
            long = ("attention.query", "attention.key", "attention.value")
            short = ("q_proj", "k_proj", "v_proj")
            for name, part in zip(long if classic else short, parts, strict=True):
                renamed[f"{new}.attention.{name}.{leaf}"] = part
            out = "output.dense" if classic else "o_proj"
            renamed[f"{new}.attention.{out}.{leaf}"] = state[f"{old}.attn.proj.{leaf}"]
            for j in (0, 1):
                renamed[f"{new}.{norms[j]}.{leaf}"] = state[f"{old}.norm{j + 1}.{leaf}"]
                renamed[f"{new}.{mlp[j]}.{leaf}"] = state[f"{old}.mlp.fc{j + 1}.{leaf}"]
        if size.layer_scale:
            for j in (1, 2):
                renamed[f"{new}.layer_scale{j}.lambda1"] = state[f"{old}.ls{j}.gamma"]
    return renamed


def _hf_vit(*, classic: bool) -> State:
    layer = "encoder.layer" if classic else "layers"
    state = huggingface_names(_vit_state(TOKEN), TOKEN, layer=layer, classic=classic)
    head = _seeded(_head("classifier", TOKEN.width), "head")
    if classic:
        state = {f"vit.{name}": array for name, array in state.items()}
    return state | head


def dinov2(size: ViTSize, *, classic: bool = True) -> State:
    """Hugging Face's Dinov2Model."""
    state = huggingface_names(_vit_state(size), size, layer="encoder.layer", classic=classic)
    return state | {"embeddings.mask_token": np.ones((1, size.width), np.float32)}


def _hf_features(x: np.ndarray, size: ViTSize) -> np.ndarray:
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    geometry: dict[str, Any] = {
        "hidden_size": size.width,
        "num_hidden_layers": size.depth,
        "num_attention_heads": size.heads,
        "image_size": 224,
        "patch_size": size.patch,
    }
    more: dict[str, bool] = {}
    module: Any
    if size.layer_scale:
        module = transformers.Dinov2Model(transformers.Dinov2Config(mlp_ratio=4, **geometry))
        state, x = dinov2(DINO, classic=False), _normalised(x, IMAGENET)
    else:
        config = transformers.ViTConfig(intermediate_size=size.mlp, **geometry)
        module = transformers.ViTModel(config, add_pooling_layer=False)
        state, x = _hf_vit(classic=False), _normalised(x, HALF)
        del state["classifier.weight"], state["classifier.bias"]
        more = {"interpolate_pos_encoding": True}
    module.load_state_dict({name: torch.from_numpy(array) for name, array in state.items()})
    module.eval()
    with torch.no_grad():
        tokens = module(torch.from_numpy(x).permute(0, 3, 1, 2), **more).last_hidden_state.numpy()
    return np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)


# --- Google: Flax's own layers in big_vision's arrangement --------------------------------------


class _BigVision(nn.Module):
    size: ViTSize

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        size = self.size
        x = nn.Conv(size.width, (size.patch,) * 2, (size.patch,) * 2, "VALID", name="embedding")(x)
        x = x.reshape(x.shape[0], -1, size.width)
        x = x + self.param("pos_embedding", nn.initializers.normal(), x[:1].shape)
        if size.class_token:
            token = self.param("cls", nn.initializers.normal(), (1, 1, size.width))
            x = jnp.concatenate([jnp.tile(token, (x.shape[0], 1, 1)), x], axis=1)
        return _BigVisionEncoder(size, name="Transformer")(x)


class _BigVisionEncoder(nn.Module):
    size: ViTSize

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        for i in range(self.size.depth):
            x = _BigVisionBlock(self.size, name=f"encoderblock_{i}")(x)
        return nn.LayerNorm(name="encoder_norm")(x)


class _BigVisionBlock(nn.Module):
    size: ViTSize

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(self.size.heads)(y, y)
        return x + _BigVisionMlp(self.size.mlp, name="MlpBlock_0")(nn.LayerNorm()(x))


class _BigVisionMlp(nn.Module):
    hidden: int

    @nn.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        y = nn.gelu(nn.Dense(self.hidden)(x), approximate=False)
        return nn.Dense(x.shape[-1])(y)


def _google_tree(size: ViTSize) -> State:
    """Seeded arrays under big_vision's names, shaped as Flax's own layers shape them."""
    from flax import traverse_util

    shaped = jax.eval_shape(_BigVision(size).init, jax.random.key(0), jnp.zeros((1, 224, 224, 3)))[
        "params"
    ]
    named = {k: v.shape for k, v in traverse_util.flatten_dict(shaped, sep="/").items()}
    state = {}
    for name, shape in named.items():
        rng = np.random.default_rng(zlib.crc32(name.encode()))
        spread = {"kernel": 0.15, "bias": 0.1, "scale": 0.3}.get(name.split("/")[-1], 0.5)
        state[name] = (rng.normal(0, spread, shape) + name.endswith("scale")).astype(np.float32)
    return state


def _google(*, size: ViTSize, old: bool) -> State:
    """big_vision's names, or the older ones: class token with a position, other numbers."""
    state = {}
    for name, array in _google_tree(size).items():
        if not old:
            state[f"params/{name}"] = array
            continue
        for new, before in (
            ("MultiHeadDotProductAttention_0", "MultiHeadDotProductAttention_1"),
            ("LayerNorm_1", "LayerNorm_2"),
            ("MlpBlock_0", "MlpBlock_3"),
        ):
            name = name.replace(new, before)
        if name == "pos_embedding":
            name = "Transformer/posembed_input/pos_embedding"
            array = np.concatenate([np.full((1, 1, size.width), 0.25, np.float32), array], axis=1)
        elif name == "cls":
            array = array - 0.25
        state[name] = array
    prefix = "" if old else "params/"
    head = {f"{prefix}head/kernel": np.ones((size.width, 3)), f"{prefix}head/bias": np.ones(3)}
    return state | head | ({} if old else {"opt/0": np.ones(1)})


def _google_features(x: np.ndarray, size: ViTSize) -> np.ndarray:
    from flax import traverse_util

    from jaxbusi.weights.positions import resize_positions  # compared with torch's elsewhere

    state = _google_tree(size)
    positions = resize_positions(state["pos_embedding"], x.shape[1] // 16, class_token=False)
    params = traverse_util.unflatten_dict(state | {"pos_embedding": positions}, sep="/")
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        tokens: Any = _BigVision(size).apply({"params": params}, _normalised(x, HALF))
    if not size.class_token:
        return np.asarray(tokens.mean(1))
    return np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)


_partial = functools.partial

FORMATS = (
    Format("torchvision_resnet18", "resnet18", IMAGENET, torchvision_resnet18, _resnet18_features),
    Format("torchvision_googlenet", "googlenet", HALF, _torchvision_googlenet, _googlenet_features),
    Format("timm_vit", "vit", HALF, _timm, _timm_features, TOKEN),
    *(
        Format(
            f"huggingface_vit_{'classic' if classic else 'new'}",
            "vit",
            HALF,
            _partial(_hf_vit, classic=classic),
            _partial(_hf_features, size=TOKEN),
            TOKEN,
        )
        for classic in (True, False)
    ),
    *(
        Format(
            f"huggingface_dinov2_{'classic' if classic else 'new'}",
            "vit",
            IMAGENET,
            _partial(dinov2, DINO, classic=classic),
            _partial(_hf_features, size=DINO),
            DINO,
            sizes=(224, 140),
        )
        for classic in (True, False)
    ),
    *(
        Format(
            f"google_{'old' if old else 'new'}_{'class' if size.class_token else 'gap'}",
            "vit",
            HALF,
            _partial(_google, size=size, old=old),
            _partial(_google_features, size=size),
            size,
            live=False,
        )
        for size, old in ((TOKEN, True), (TOKEN, False), (PLAIN, False))
    ),
)


GRIDS = ((14, 10), (14, 16), (37, 16), (5, 1))
"""Sides of position grids before and after."""


def grid_positions(side: int) -> np.ndarray:
    """Seeded f32[1, side² + 1, 8]."""
    return np.random.default_rng(side).normal(size=(1, side * side + 1, 8)).astype(np.float32)


def dinov2_small_features(path: Path, pixels: np.ndarray) -> np.ndarray:
    """Hugging Face's Dinov2Model with a real file, for uint8 images: class token and mean."""
    import torch
    import transformers
    from safetensors.torch import load_file

    config = transformers.Dinov2Config(
        hidden_size=384, num_attention_heads=6, image_size=518, patch_size=14
    )
    module = transformers.Dinov2Model(config)
    state = {name: tensor.float() for name, tensor in load_file(path).items()}
    own = {}  # version 5 has other names than the file
    for name, tensor in state.items():
        for old, new in (
            ("attention.attention.query", "attention.q_proj"),
            ("attention.attention.key", "attention.k_proj"),
            ("attention.attention.value", "attention.v_proj"),
            ("attention.output.dense", "attention.o_proj"),
        ):
            name = name.replace(old, new)
        own[name] = tensor
    own.setdefault("embeddings.mask_token", torch.zeros(1, 384))
    module.load_state_dict(own)
    module.eval()
    x = torch.from_numpy(_normalised(pixels.astype(np.float32) / 255, IMAGENET))
    with torch.no_grad():
        tokens = module(x.permute(0, 3, 1, 2)).last_hidden_state.numpy()
    return np.concatenate([tokens[:, 0], tokens[:, 1:].mean(1)], axis=1)


def record(real: Path | None = None) -> None:
    """Writes what the origins give; needs PyTorch and transformers.

    Args:
      real: DINOv2-small's file; without it, what was recorded of it is kept.
    """
    if real is not None:
        digest = hashlib.sha256(real.read_bytes()).hexdigest()
        arrays = {
            "dinov2_small": dinov2_small_features(real, images(224)),
            "dinov2_small_sha256": np.array(zlib.crc32(digest.encode())),
        }
    else:
        with np.load(Path(__file__).parents[1] / "recorded" / "formats.npz") as file:
            arrays = {name: file[name] for name in file if name.startswith("dinov2_small")}
    arrays |= {
        f"{format_.name}_{side}": format_.features(images(side).astype(np.float32) / 255)
        for format_ in FORMATS
        if format_.live
        for side in format_.sizes
    }
    for old, new in GRIDS:
        arrays[f"positions_{old}_{new}"] = torch_positions(
            grid_positions(old), new, class_token=True
        )
    np.savez_compressed(RECORDED / "formats.npz", allow_pickle=False, **arrays)
