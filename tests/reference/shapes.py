"""Names and shapes of the reference modules' tensors, without PyTorch.

`load_state_dict(strict=True)` checks them against the modules wherever PyTorch is there.
"""

import itertools

from jaxbusi.models.googlenet import INCEPTIONS
from jaxbusi.models.vit import ViTSize

Shapes = dict[str, tuple[int, ...]]


def _batch_norm(name: str, channels: int) -> Shapes:
    return {
        f"{name}.{part}": (channels,) for part in ("weight", "bias", "running_mean", "running_var")
    }


def _linear(name: str, inputs: int, outputs: int) -> Shapes:
    return {f"{name}.weight": (outputs, inputs), f"{name}.bias": (outputs,)}


def resnet18_shapes() -> Shapes:
    shapes: Shapes = {"conv1.weight": (64, 3, 7, 7)} | _batch_norm("bn1", 64)
    inputs = 64
    for layer, width in enumerate((64, 128, 256, 512), start=1):
        for block in (0, 1):
            name = f"layer{layer}.{block}"
            shapes[f"{name}.conv1.weight"] = (width, inputs, 3, 3)
            shapes |= _batch_norm(f"{name}.bn1", width)
            shapes[f"{name}.conv2.weight"] = (width, width, 3, 3)
            shapes |= _batch_norm(f"{name}.bn2", width)
            if inputs != width:
                shapes[f"{name}.downsample.0.weight"] = (width, inputs, 1, 1)
                shapes |= _batch_norm(f"{name}.downsample.1", width)
            inputs = width
    return shapes


def _conv_block(name: str, inputs: int, outputs: int, window: int) -> Shapes:
    kernel: Shapes = {f"{name}.conv.weight": (outputs, inputs, window, window)}
    return kernel | _batch_norm(f"{name}.bn", outputs)


def googlenet_shapes(classes: int) -> Shapes:
    shapes = (
        _conv_block("conv1", 3, 64, 7)
        | _conv_block("conv2", 64, 64, 1)
        | _conv_block("conv3", 64, 192, 3)
    )
    inputs = 192
    for name, (one, three_in, three, five_in, five, pool) in INCEPTIONS.items():
        shapes |= _conv_block(f"{name}.branch1", inputs, one, 1)
        shapes |= _conv_block(f"{name}.branch2.0", inputs, three_in, 1)
        shapes |= _conv_block(f"{name}.branch2.1", three_in, three, 3)
        shapes |= _conv_block(f"{name}.branch3.0", inputs, five_in, 1)
        shapes |= _conv_block(f"{name}.branch3.1", five_in, five, 3)
        shapes |= _conv_block(f"{name}.branch4.1", inputs, pool, 1)
        inputs = one + three + five + pool
    for name, channels in (("aux1", 512), ("aux2", 528)):
        shapes |= _conv_block(f"{name}.conv", channels, 128, 1)
        shapes |= _linear(f"{name}.fc1", 2048, 1024)
        shapes |= _linear(f"{name}.fc2", 1024, classes)
    return shapes


def vit_shapes(size: ViTSize, image: int) -> Shapes:
    width = size.width
    tokens = (image // size.patch) ** 2 + int(size.class_token)
    shapes: Shapes = {
        "patch_embed.proj.weight": (width, 3, size.patch, size.patch),
        "patch_embed.proj.bias": (width,),
        "pos_embed": (1, tokens, width),
        "norm.weight": (width,),
        "norm.bias": (width,),
    }
    if size.class_token:
        shapes["cls_token"] = (1, 1, width)
    for i in range(size.depth):
        name = f"blocks.{i}"
        for norm in ("norm1", "norm2"):
            shapes |= {f"{name}.{norm}.weight": (width,), f"{name}.{norm}.bias": (width,)}
        shapes |= _linear(f"{name}.attn.qkv", width, 3 * width)
        shapes |= _linear(f"{name}.attn.proj", width, width)
        shapes |= _linear(f"{name}.mlp.fc1", width, size.mlp)
        shapes |= _linear(f"{name}.mlp.fc2", size.mlp, width)
        if size.layer_scale:
            shapes |= {f"{name}.ls1.gamma": (width,), f"{name}.ls2.gamma": (width,)}
    return shapes


def head_shapes(widths: tuple[int, ...]) -> Shapes:
    """Linear layers between `widths`; their numbers leave room for the ReLU in between."""
    shapes: Shapes = {}
    for layer, (inputs, outputs) in enumerate(itertools.pairwise(widths)):
        shapes |= _linear(str(2 * layer), inputs, outputs)
    return shapes
