"""Which public checkpoint a state dict is, told by its names and shapes."""

import dataclasses
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np

from jaxbusi.errors import UserError
from jaxbusi.models.fusion import IMAGENET_MEAN, IMAGENET_STD, Channels
from jaxbusi.weights import google, huggingface, timm, torchvision
from jaxbusi.weights.files import Tensors
from jaxbusi.weights.mapping import Converted, State, Tree

_LONGEST_BESIDE = 2**20  # Bytes; Hugging Face's are of one or two thousand.
_HALF: Channels = (0.5, 0.5, 0.5)


@dataclasses.dataclass(frozen=True)
class Statistics:
    """How the images were prepared that a checkpoint was trained on.

    Attributes:
      mean: of the channels, on the scale 0 … 1.
      std: of the channels, on the scale 0 … 1.
      interpolation: of the resizing, `bilinear` or `bicubic`.
      stated: where they come from: `by the format`, `assumed`, or the name of a file beside it.
    """

    mean: Channels
    std: Channels
    interpolation: str
    stated: str = "by the format"


_IMAGENET = Statistics(IMAGENET_MEAN, IMAGENET_STD, "bilinear")


@dataclasses.dataclass(frozen=True)
class Recognised:
    """A checkpoint that is known.

    Attributes:
      format: in words.
      branch: where it belongs.
      converted: its variables under our names.
      statistics: of its images.
    """

    format: str
    branch: str
    converted: Converted
    statistics: Statistics


@dataclasses.dataclass(frozen=True)
class _Format:
    """A kind of checkpoint: its name, the names that tell it, and what becomes of it.

    `beside` is the file in which its origin keeps the statistics of images, where it does.
    """

    name: str
    branch: str
    telling: tuple[str, ...]
    convert: Callable[[State], Converted]
    statistics: Callable[[Tensors], Statistics]
    plain_names: Callable[[State], dict[str, np.ndarray]] = dict
    beside: str = ""


def _timm_statistics(tensors: Tensors) -> Statistics:
    if "blocks.0.ls1.gamma" in tensors.arrays:  # DINOv2
        return dataclasses.replace(_IMAGENET, interpolation="bicubic")
    if tensors.wrapper == "model":  # DeiT's own files; timm's are not nested
        return dataclasses.replace(_IMAGENET, interpolation="bicubic", stated="assumed")
    return Statistics(_HALF, _HALF, "bicubic", stated="assumed")


def _huggingface_statistics(tensors: Tensors) -> Statistics:
    names = tensors.arrays
    if any(name.endswith("layer.0.layer_scale1.lambda1") for name in names):
        return dataclasses.replace(_IMAGENET, interpolation="bicubic")
    if any(name.startswith("deit.") for name in names):
        return dataclasses.replace(_IMAGENET, interpolation="bicubic")
    return Statistics(_HALF, _HALF, "bilinear", stated="assumed")


_FORMATS = (
    _Format(
        "torchvision's GoogLeNet",
        "googlenet",
        ("inception3a.branch1.conv.weight",),
        # Its public auxiliary heads are untrained, and their last layers have 1000 classes.
        lambda state: torchvision.googlenet_from_torchvision(state, auxiliary=False),
        # torchvision turns ImageNet's statistics into these inside the model (transform_input).
        lambda _: Statistics(_HALF, _HALF, "bilinear"),
    ),
    _Format(
        "torchvision's ResNet18",
        "resnet18",
        ("conv1.weight", "layer1.0.conv1.weight"),
        lambda state: _resnet18(state),
        lambda _: _IMAGENET,
    ),
    _Format(
        "timm's ViT or DeiT",
        "vit",
        ("patch_embed.proj.weight", "blocks.0.attn.qkv.weight"),
        timm.vit_from_timm,
        _timm_statistics,
        beside="config.json",
    ),
    _Format(
        "Hugging Face's ViT or DINOv2",
        "vit",
        ("embeddings.patch_embeddings.projection.weight", "encoder.layer.0.norm1.weight"),
        huggingface.vit_from_huggingface,
        _huggingface_statistics,
        huggingface.plain_names,
        beside="preprocessor_config.json",
    ),
    _Format(
        "Google's ViT (npz)",
        "vit",
        ("embedding/kernel", "Transformer/encoderblock_0/LayerNorm_0/scale"),
        google.vit_from_google,
        lambda _: Statistics(_HALF, _HALF, "bilinear"),
        google.plain_names,
    ),
)


def recognise(path: Path, tensors: Tensors) -> Recognised:
    """Finds out what a checkpoint is and converts it.

    Where the format leaves the statistics of the images open, those win that its origin keeps
    beside the file, as `preprocessor_config.json` (Hugging Face) or `config.json` (timm).

    Args:
      path: of the file, for messages.
      tensors: its content.

    Raises:
      UserError: it is none of the known ones, of another architecture, or holds numbers that are
        not finite.
    """
    for format_ in _FORMATS:
        state = format_.plain_names(tensors.arrays)
        if not all(name in state for name in format_.telling):
            continue
        check_finite(path, state)
        try:
            converted = format_.convert(state)
            check_positions(converted.variables)
        except UserError as error:
            raise UserError(f"{path}: {error}") from error
        statistics = format_.statistics(tensors)
        if statistics.stated == "assumed":
            statistics = _beside(path, format_.beside) or statistics
        check_statistics(statistics.mean, statistics.std, f"{path} ({statistics.stated}):")
        return Recognised(format_.name, format_.branch, converted, statistics)
    known = "; ".join(format_.name for format_ in _FORMATS)
    names = sorted(tensors.arrays)
    found = ", ".join(names[:4]) + (f" and {len(names) - 4} more" if len(names) > 4 else "")
    raise UserError(f"{path} is no checkpoint that is known ({known}); it holds {found}")


def _resnet18(state: State) -> Converted:
    blocks = [
        len({name.split(".")[1] for name in state if name.startswith(f"layer{stage}.")})
        for stage in (1, 2, 3, 4)
    ]
    kind = "bottleneck" if "layer1.0.conv3.weight" in state else "basic"
    if blocks != [2, 2, 2, 2] or kind != "basic":
        raise UserError(
            f"a ResNet of {'-'.join(map(str, blocks))} {kind} blocks; the branch resnet18 has "
            "2-2-2-2 basic blocks: take the weights of ResNet18"
        )
    return torchvision.resnet18_from_torchvision(state)


def check_finite(path: Path, arrays: State) -> None:
    """Checks the numbers of a file.

    Raises:
      UserError: names the first array that holds one that is not finite, or none at all.
    """
    for name, array in arrays.items():
        if array.dtype.kind not in "fiub" and array.dtype != ml_dtypes.bfloat16:
            raise UserError(f"{path}: {name} holds {array.dtype} in place of numbers")
        with np.errstate(over="ignore"):  # a number beyond float32 becomes infinite, and is named
            if array.dtype.kind not in "iub" and not np.isfinite(array.astype(np.float32)).all():
                raise UserError(
                    f"{path}: {name} holds NaN or infinite numbers; fetch the file again"
                )


def check_positions(variables: Tree) -> None:
    """Checks the position embeddings of a transformer, where there are any: f32[1, T, width].

    Raises:
      UserError: they have another shape, or no position besides that of the class token.
    """
    params = variables["params"]
    if (positions := params.get("position_embedding")) is None:
        return
    if (
        positions.ndim != 3
        or len(positions) != 1
        or positions.shape[1] <= ("class_token" in params)
    ):
        raise UserError(
            f"its position embeddings {list(positions.shape)} are not [1, positions, width]"
        )


def check_statistics(mean: Channels, std: Channels, where: str) -> None:
    """Checks the mean and standard deviation of images on the scale 0 … 1.

    Raises:
      UserError: they make no sense; the message begins with `where`.
    """
    if not (all(0 <= value <= 1 for value in mean) and all(0 < value <= 1 for value in std)):
        raise UserError(
            f"{where} images cannot have the mean {mean} and the standard deviation {std}, which "
            "are of channels on the scale 0 to 1"
        )


def _beside(path: Path, name: str) -> Statistics | None:
    """The statistics in a file beside the weights, or None where there are none."""
    try:
        with (path.parent / name).open("rb") as file:
            found = _stated(json.loads(file.read(_LONGEST_BESIDE)))
    except (OSError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError):
        return None
    except RecursionError:
        return None
    return dataclasses.replace(found, stated=name) if found else None


# Pillow's numbers, which Hugging Face writes.
_RESAMPLING = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")


def _stated(content: dict[str, Any]) -> Statistics | None:
    if "image_mean" in content:  # Hugging Face
        mean, std = content["image_mean"], content["image_std"]
        number = content.get("resample", 2)
        interpolation = _RESAMPLING[number] if number in range(6) else f"resample {number}"
    elif "mean" in content.get("pretrained_cfg", {}):
        timms = content["pretrained_cfg"]
        mean, std, interpolation = timms["mean"], timms["std"], timms["interpolation"]
    else:
        return None
    return Statistics(_channels(mean), _channels(std), str(interpolation))


def _channels(values: list[float]) -> Channels:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
