"""Small weights in every container that is read, for `scripts/fuzz.py` to damage."""

import io
import json
import pickle
import struct
import tempfile
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path

import numpy as np
from safetensors import numpy as safetensors_numpy

from jaxbusi.weights import mapping, pickles, timm, torchvision
from jaxbusi.weights.load import read_weights, write_weights

State = dict[str, np.ndarray]

_SHAPES = {mapping.convolution: (4, 4, 2, 2), mapping.linear: (4, 4), mapping.same: (4,)}


def _state(entries: Iterable[mapping.Entry], **shapes: tuple[int, ...]) -> State:
    """Small arrays under the names of a format; `shapes` by the names, dots as underscores."""
    state = {}
    for entry in entries:
        for name in entry.sources:
            shape = shapes.get(name.replace(".", "_"), _SHAPES.get(entry.layout, (4, 4)))
            state[name] = np.full(shape, 0.5, np.float32)
    return state


def _timm() -> State:
    entries = timm.vit_entries(depth=1, class_token=True, layer_scale=False)
    state = _state(entries, pos_embed=(1, 5, 4), cls_token=(1, 1, 4))
    return state | {"head.weight": np.ones((3, 4), np.float32)}


def _filled(shapes: Mapping[str, tuple[int, ...]]) -> State:
    return {name: np.full(shape, 0.5, np.float32) for name, shape in shapes.items()}


def _huggingface() -> State:
    layer, patches = "vit.encoder.layer.0", "vit.embeddings.patch_embeddings.projection"
    attention = [f"{layer}.attention.attention.{part}" for part in ("query", "key", "value")]
    dense = [f"{layer}.{part}.dense" for part in ("attention.output", "intermediate", "output")]
    norms = [f"{layer}.layernorm_before", f"{layer}.layernorm_after", "vit.layernorm"]
    shapes: dict[str, tuple[int, ...]] = {
        f"{patches}.weight": (4, 3, 2, 2),
        f"{patches}.bias": (4,),
        "vit.embeddings.position_embeddings": (1, 5, 4),
        "vit.embeddings.cls_token": (1, 1, 4),
    }
    shapes |= {f"{name}.weight": (4, 4) for name in (*attention, *dense)}
    shapes |= {f"{name}.weight": (4,) for name in norms}
    return _filled(shapes | {f"{name}.bias": (4,) for name in (*attention, *dense, *norms)})


def _google() -> State:
    block = "Transformer/encoderblock_0"
    attention, mlp = f"{block}/MultiHeadDotProductAttention_1", f"{block}/MlpBlock_3"
    shapes: dict[str, tuple[int, ...]] = {
        f"{attention}/out/kernel": (2, 2, 4),
        f"{attention}/out/bias": (4,),
        "embedding/kernel": (2, 2, 3, 4),
        "embedding/bias": (4,),
        "Transformer/posembed_input/pos_embedding": (1, 5, 4),
        "cls": (1, 1, 4),
        "head/kernel": (4, 2),
    }
    for part in ("query", "key", "value"):
        shapes |= {f"{attention}/{part}/kernel": (4, 2, 2), f"{attention}/{part}/bias": (2, 2)}
    for norm in (f"{block}/LayerNorm_0", f"{block}/LayerNorm_2", "Transformer/encoder_norm"):
        shapes |= {f"{norm}/scale": (4,), f"{norm}/bias": (4,)}
    for dense in (f"{mlp}/Dense_0", f"{mlp}/Dense_1"):
        shapes |= {f"{dense}/kernel": (4, 4), f"{dense}/bias": (4,)}
    return _filled(shapes)


def npz() -> list[bytes]:
    """Google's vision transformer, stored and compressed."""
    found = []
    for save in (np.savez, np.savez_compressed):
        stream = io.BytesIO()
        save(stream, allow_pickle=False, **_google())
        found.append(stream.getvalue())
    return found


def safetensors() -> list[bytes]:
    """Transformers, a ResNet18 in float16, and a converted file."""
    resnet = _state(torchvision.resnet18_entries())
    half = {name: array.astype(np.float16) for name, array in resnet.items()}
    found = [safetensors_numpy.save(state) for state in (_timm(), _huggingface(), half)]
    with tempfile.TemporaryDirectory() as folder:
        source, converted = Path(folder, "source"), Path(folder, "converted")
        source.write_bytes(found[0])
        write_weights(converted, read_weights(source))
        return [*found, converted.read_bytes()]


def torch() -> list[bytes]:
    """Both containers of `torch.save`, with and without settings beside the state dict."""
    states = (_state(torchvision.resnet18_entries()), _timm())
    made = [make(torch_pickle(state), state) for state in states for make in (zipped, legacy)]
    recorded = Path(__file__).parents[1] / "tests" / "recorded"
    return [*made, *((recorded / f"small_{kind}.pth").read_bytes() for kind in ("zip", "legacy"))]


def torch_pickle(state: State) -> bytes:
    """What `torch.save` makes of a state dict of float32, but for its storages."""

    def text(value: str) -> bytes:
        return b"X" + struct.pack("<I", len(value)) + value.encode()

    def numbers(values: Sequence[int]) -> bytes:
        return b"(" + b"".join(b"J" + struct.pack("<i", value) for value in values) + b"t"

    empty = b"ccollections\nOrderedDict\n)R"
    out = [b"\x80\x02", empty, b"("]
    for number, (name, array) in enumerate(state.items()):
        strides = [stride // array.itemsize for stride in array.strides]
        storage = b"(" + text("storage") + b"ctorch\nFloatStorage\n"
        storage += text(str(number)) + text("cpu")
        out += [
            text(name), b"ctorch._utils\n_rebuild_tensor_v2\n(", storage,
            b"J" + struct.pack("<i", array.size) + b"tQK\x00", numbers(array.shape),
            numbers(strides), b"\x89" + empty + b"tR",
        ]  # fmt: skip
    return b"".join([*out, b"u."])


def zipped(payload: bytes, state: State) -> bytes:
    """The zip format of `torch.save` around a pickle."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/byteorder", b"little")
        for number, array in enumerate(state.values()):
            archive.writestr(f"archive/data/{number}", array.tobytes())
        archive.writestr("archive/version", b"3\n")
    return stream.getvalue()


def legacy(payload: bytes, state: State) -> bytes:
    """The format of `torch.save` before version 1.6 around a pickle."""
    system = {"protocol_version": 1001, "little_endian": True, "type_sizes": {"int": 4}}
    head = pickles.LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps(system, 2)
    storages = b"".join(struct.pack("<q", array.size) + array.tobytes() for array in state.values())
    return head + payload + pickle.dumps([str(n) for n in range(len(state))], 2) + storages


def beside() -> list[bytes]:
    """What Hugging Face and timm keep beside a file of weights."""
    return [
        json.dumps(content).encode()
        for content in (
            {"image_mean": [0.5, 0.5, 0.5], "image_std": [0.5, 0.5, 0.5], "resample": 2},
            {
                "pretrained_cfg": {
                    "mean": [0.5, 0.5, 0.5], "std": [0.5, 0.5, 0.5], "interpolation": "bicubic",
                }
            },
        )
    ]  # fmt: skip
