"""preprocessing.json: what lies between an image file and the model, for any language."""

from collections.abc import Mapping, Sequence
from typing import Any

from jaxbusi.data.records import CLASSES
from jaxbusi.export.program import Program

INPUT = "images"
OUTPUT = "probabilities"
BATCH = "batch"
"""Names in the model: of its input, its output and the axis of both that has any length."""


def describe(
    program: Program, form: str, files: Sequence[str], fingerprint: Mapping[str, Any]
) -> dict[str, Any]:
    """Returns what the file holds, as JSON values.

    Args:
      program: what was exported.
      form: `stablehlo` or `onnx`.
      files: names of the model and, where they lie beside it, of the weights.
      fingerprint: of the run.
    """
    side = program.image_size
    statistics = {
        branch: dict(zip(("mean", "std"), map(list, program.model.statistics(branch)), strict=True))
        for branch in program.model.branches
    }
    return {
        "format": form,
        "files": dict(zip(("model", "weights"), files, strict=False)),
        "decode": {
            "mode": "RGB",
            "gray": "repeated in three channels",
            "transparency": "composited on black",
            "orientation": "as EXIF asks for",
            "frames": "the first",
            "gray_16_bits": "of 8, 10, 12, 14 or 16 bits the fewest that hold the largest value of "
            "the image; that range scaled linearly to 0..255 and rounded",
            "colour_16_bits": "the upper 8 bits of each channel",
        },
        "resize": {
            "size": [side, side],
            "keep_aspect": False,
            "crop": None,
            "filter": "bilinear",
            "antialias": True,
            "pillow": f"image.resize(({side}, {side}), Image.Resampling.BILINEAR)",
        },
        "normalize": {
            "inside_model": True,
            "do": "nothing: hand over the bytes",
            "what_the_model_does": "(pixel / 255 - mean) / std, by branch and channel",
            "branches": statistics,
        },
        "input": {
            "name": INPUT,
            "dtype": "uint8",
            "shape": [BATCH, side, side, 3],
            "layout": "NHWC",
            "channels": "RGB",
            "range": [0, 255],
        },
        "output": {
            "name": OUTPUT,
            "dtype": "float32",
            "shape": [BATCH, len(CLASSES)],
            "classes": list(CLASSES),
            "meaning": "softmax over the classes, as the model gives it: no temperature is applied",
        },
        "fingerprint": dict(fingerprint),
    }
