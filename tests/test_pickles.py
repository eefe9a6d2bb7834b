"""Weights from any container: read without PyTorch, refused in one line, and nothing executed."""

import collections
import io
import json
import os
import pickle
import subprocess
import sys
import zipfile

import ml_dtypes
import numpy as np
import pytest
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from jaxbusi import convert as convert_command
from jaxbusi.errors import UserError
from jaxbusi.weights import pickles
from jaxbusi.weights.files import read_tensors
from jaxbusi.weights.load import load_branch, read_weights, write_weights
from tests.reference import formats, pth
from tests.reference.results import RECORDED
from tests.reference.shapes import vit_shapes


def assert_as_expected(tensors):
    expected = pth.expected()
    assert list(tensors.arrays) == list(expected)
    for name, array in expected.items():
        ours = tensors.arrays[name]
        assert ours.shape == array.shape
        np.testing.assert_array_equal(ours.astype(array.dtype), array)
    assert tensors.arrays["half"].dtype == np.float16
    assert tensors.arrays["brain"].dtype == ml_dtypes.bfloat16
    assert tensors.wrapper == "state_dict"


@pytest.mark.parametrize("name", pth.FILES)
def test_recorded_files_of_torch_save(name):
    assert_as_expected(read_tensors(RECORDED / name))


@pytest.mark.torch
@pytest.mark.parametrize("name", pth.FILES)
def test_fresh_files_of_torch_save(name, tmp_path, monkeypatch):
    monkeypatch.setattr(pth, "RECORDED", tmp_path)
    pth.record()
    assert_as_expected(read_tensors(tmp_path / name))


@pytest.mark.torch
def test_the_reader_does_not_import_torch():
    code = (
        "import sys; from jaxbusi.weights.files import read_tensors; "
        f"read_tensors({str(RECORDED / pth.FILES[0])!r}); assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- files that mean harm ------------------------------------------------------------------------


class Harm:
    """Unpickling it writes a file."""

    def __init__(self, call, *arguments):
        self.call, self.arguments = call, arguments

    def __reduce__(self):
        return self.call, self.arguments


def zipped(payload: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        archive.writestr("archive/data.pkl", payload)
        archive.writestr("archive/version", "3")
    return buffer.getvalue()


def legacy(payload: bytes) -> bytes:
    head = pickles.LEGACY_MAGIC + pickle.dumps(1001, 2) + pickle.dumps({"little_endian": True}, 2)
    return head + payload


@pytest.mark.parametrize("container", [zipped, legacy])
@pytest.mark.parametrize("call", ["os.system", "eval", "numpy.load", "getattr", "torch.load"])
def test_a_malicious_file_executes_nothing(container, call, tmp_path):
    target = tmp_path / "harmed"
    if call == "os.system":
        harm = Harm(os.system, f"touch {target}")
    elif call == "eval":
        harm = Harm(eval, f"open({str(target)!r}, 'w')")
    elif call == "getattr":
        harm = Harm(getattr, collections.OrderedDict, "fromkeys")
    elif call == "numpy.load":
        harm = Harm(np.load, str(target))
    else:
        # A name below an allowed module, written out: `torch` need not be installed.
        payload = b"\x80\x02ctorch.serialization\nload\nX\x01\x00\x00\x00x\x85R."
        harm = None
    if harm is not None:
        payload = pickle.dumps({"conv1.weight": harm}, 2)
    path = tmp_path / "weights.pth"
    path.write_bytes(container(payload))
    with pytest.raises(UserError, match="nothing was executed") as error:
        read_tensors(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)
    assert not target.exists()


def test_a_tensor_beyond_its_storage_is_refused(tmp_path):
    """Strides decide which bytes are read: they must stay inside."""
    for offset, shape, strides in [
        (0, (8,), (4,)),
        (30, (2,), (2,)),
        (0, (2,), (-1,)),
        (-1, (2,), (1,)),
    ]:
        with pytest.raises(ValueError, match=r"beyond its storage|offset, shape, strides"):
            pickles.Tensor("0", np.dtype(np.float32), offset, shape, strides).array(bytes(4 * 28))


# --- files that are wrong ------------------------------------------------------------------------


def truncate(path, share=0.6):
    data = path.read_bytes()
    path.write_bytes(data[: int(len(data) * share)])


@pytest.mark.parametrize("kind", ["safetensors", "npz", *pth.FILES])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.6, 0.99])
def test_truncated_files(kind, share, tmp_path):
    path = tmp_path / "weights"
    arrays = {name: np.arange(400, dtype=np.float32) for name in ("one", "two")}
    if kind == "safetensors":
        save_file(arrays, path)
    elif kind == "npz":
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **arrays)
    else:
        path.write_bytes((RECORDED / kind).read_bytes())
    read_tensors(path)
    truncate(path, share)
    with pytest.raises(UserError) as error:
        read_tensors(path)
    assert str(path) in str(error.value)
    assert "\n" not in str(error.value)


def test_objects_in_npz_are_not_unpickled(tmp_path):
    path = tmp_path / "weights.npz"
    target = tmp_path / "harmed"
    objects = np.empty(1, object)
    objects[0] = Harm(os.system, f"touch {target}")
    np.savez(path, objects=objects)
    with pytest.raises(UserError, match="damaged"):
        read_tensors(path)
    assert not target.exists()


def vit(**changes):
    """A transformer under timm's names, one layer deep."""
    size = formats.dataclasses.replace(formats.TOKEN, depth=1, **changes)
    return {name: np.full(shape, 0.5, np.float32) for name, shape in vit_shapes(size, 224).items()}


def saved(state, folder):
    path = folder / "weights.safetensors"
    save_file(state, path)
    return path


def test_what_is_unknown_lists_what_was_found_and_what_is_known(tmp_path):
    path = saved({f"features.{i}.weight": np.ones(3) for i in range(6)}, tmp_path)
    with pytest.raises(UserError) as error:
        read_weights(path)
    for part in (
        str(path),
        "torchvision's ResNet18",
        "Google's ViT",
        "features.0.weight",
        "2 more",
    ):
        assert part in str(error.value)


def test_nan_is_named(tmp_path):
    state = vit()
    state["blocks.0.mlp.fc1.bias"][3] = np.nan
    with pytest.raises(UserError, match=r"blocks\.0\.mlp\.fc1\.bias holds NaN"):
        read_weights(saved(state, tmp_path))


def test_a_name_left_over_is_named(tmp_path):
    state = vit() | {"dist_token": np.zeros((1, 1, 32), np.float32)}
    with pytest.raises(UserError, match=r"unknown 1 \(dist_token\)"):
        read_weights(saved(state, tmp_path))


def test_another_size_of_transformer_gives_both(tmp_path):
    path = saved(vit(), tmp_path)
    with pytest.raises(UserError, match=r"width 32, depth 1, .*'B16' has .*width 768, depth 12"):
        load_branch(str(path), "vit", vit="B16", image_size=224)


def test_another_branch_is_told_where_it_belongs(tmp_path):
    path = saved(vit(), tmp_path)
    with pytest.raises(
        UserError, match=r"config\.weights\.resnet18=.*give it as config\.weights\.vit"
    ):
        load_branch(str(path), "resnet18", vit="B16", image_size=224)


def test_a_deeper_resnet_is_named(tmp_path):
    state = {f"layer{s}.{b}.conv1.weight": np.ones(1) for s in (1, 2, 3, 4) for b in range(s + 2)}
    state |= {"conv1.weight": np.ones(1), "layer1.0.conv3.weight": np.ones(1)}
    with pytest.raises(
        UserError, match="3-4-5-6 bottleneck blocks; the branch resnet18 has 2-2-2-2"
    ):
        read_weights(saved(state, tmp_path))


def convert(*arguments):
    return subprocess.run(
        [sys.executable, "-m", "jaxbusi.convert", *map(str, arguments)],
        capture_output=True,
        text=True,
    )


def _umask():
    mask = os.umask(0)
    os.umask(mask)
    return mask


def test_a_tensor_of_another_shape_or_type_is_named(tmp_path):
    state = vit()
    kernel = state["patch_embed.proj.weight"]
    flat = state | {"patch_embed.proj.weight": kernel.reshape(len(kernel), -1)}
    with pytest.raises(UserError, match=r"proj\.weight float32\[32, .*not of the shape"):
        read_weights(saved(flat, tmp_path))


def test_a_converted_file_is_checked_too(tmp_path):
    path = tmp_path / "converted.safetensors"
    write_weights(path, read_weights(saved(vit(), tmp_path)))
    with safe_open(path, "numpy") as file:
        metadata = file.metadata()
    arrays = load_file(path)
    broken = arrays | {"params/norm/bias": np.full_like(arrays["params/norm/bias"], np.nan)}
    save_file(broken, path, metadata)
    with pytest.raises(UserError, match=r"params/norm/bias holds NaN"):
        read_weights(path)
    save_file(arrays, path, {"jaxbusi": "null"})
    with pytest.raises(UserError, match=r"converted by another version"):
        read_weights(path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"origin.mean": "abc"}, "converted by another version"),
        ({"origin.dropped": None}, "converted by another version"),
        ({"origin.crop": 10**400}, "converted by another version"),
        ({"params/norm/bias": np.zeros(32, np.float16)}, "norm/bias float16 is not of a branch"),
        ({"x/norm/bias": np.zeros(32, np.float32)}, "x/norm/bias float32 is not of a branch"),
        ({"params/norm": np.zeros(32, np.float32)}, "is no converted file"),
        ({"params/norm/bias/x": np.zeros(32, np.float32)}, "is no converted file"),
        (
            {"params/position_embedding": np.zeros((2, 5, 32), np.float32)},
            "are not \\[1, positions",
        ),
        ({"params/patch_embedding/kernel": None}, "lacks parts of a transformer"),
    ],
)
def test_a_converted_file_that_was_changed(change, message, tmp_path):
    path = tmp_path / "converted.safetensors"
    write_weights(path, read_weights(saved(vit(), tmp_path)))
    with safe_open(path, "numpy") as file:
        origin = json.loads(file.metadata()["jaxbusi"])
    arrays = load_file(path)
    for name, value in change.items():
        if name.startswith("origin."):
            origin[name.removeprefix("origin.")] = value
        elif value is None:
            del arrays[name]
        else:
            arrays[name] = value
    save_file(arrays, path, {"jaxbusi": json.dumps(origin)})
    with pytest.raises(UserError, match=message) as caught:
        load_branch(str(path), "vit", vit="B16", image_size=224)
    assert str(path) in str(caught.value)


@pytest.mark.parametrize(
    ("name", "array", "message"),
    [
        (
            "pos_embed",
            np.zeros(32, np.float32),
            r"position embeddings \[32\] are not \[1, positions",
        ),
        ("pos_embed", np.zeros((1, 0, 32), np.float32), "are not \\[1, positions"),
        ("pos_embed", None, r"missing 1 \(pos_embed\)"),
        ("norm.bias", np.zeros(32, np.complex64), "norm.bias holds complex64 in place of numbers"),
        ("norm.bias", np.zeros(32, "M8[s]"), "norm.bias holds datetime64.* in place of numbers"),
        ("norm.bias", np.zeros(32, [("a", "f4")]), "norm.bias holds .* in place of numbers"),
        ("norm.bias", np.full(32, 1e300), "norm.bias holds NaN or infinite numbers"),
    ],
)
def test_arrays_that_no_checkpoint_has(name, array, message, tmp_path):
    state = vit(class_token=True)
    state.pop(name) if array is None else state.update({name: array})
    path = tmp_path / "weights.npz"
    np.savez(path, allow_pickle=False, **state)
    with pytest.raises(UserError, match=message):
        read_weights(path)


@pytest.mark.parametrize(
    "content",
    ["[" * 100_000, "3", "\0", "{}",
     '{"image_mean": [%s, 0, 0], "image_std": [1, 1, 1]}' % ("9" * 400), "x" * 2**21],
)  # fmt: skip
def test_what_lies_beside_the_weights_may_be_anything(content, tmp_path):
    (tmp_path / "config.json").write_text(content)
    assert read_weights(saved(vit(), tmp_path)).origin.stated == "assumed"


def test_the_command(tmp_path, monkeypatch, capsys):
    path, out = saved(vit(), tmp_path), tmp_path / "out.safetensors"
    result = convert(path, out, "--mean=0.1,0.2,0.3", "--std=0.3,0.4,0.5")
    assert result.returncode == 0, result.stderr
    assert f"--config.weights.vit={out}" in result.stdout
    origin = read_weights(out).origin
    assert (origin.mean, origin.std, origin.stated) == ((0.1, 0.2, 0.3), (0.3, 0.4, 0.5), "by hand")
    assert out.stat().st_mode & 0o777 == 0o666 & ~_umask()
    for arguments, part in (
        ([path], "DEST"),
        ([path, out, "--mean=0.5"], "--mean"),
        ([path, out, "--mean=0.1,0.2,0.3"], "belong together"),
        ([tmp_path, out], "is a folder"),
        ([tmp_path / "none", out], "does not exist"),
        ([__file__, out], "no file of weights"),
        ([path, path / "below"], "cannot be written"),
        ([path, path], "is SOURCE itself"),
        ([path, tmp_path], "is no regular file"),
        ([path, ""], "is no regular file"),
        ([path, "/dev/null"], "is no regular file"),
        ([path, out, "--mean=0.1,0.2,0.3", "--std=0,0,0"], "images cannot have the mean"),
    ):
        # In this process: a start takes a second.
        monkeypatch.setattr(sys, "argv", ["convert", *map(str, arguments)])
        with pytest.raises(SystemExit) as ended:
            convert_command.main()
        assert ended.value.code == 2
        (line,) = capsys.readouterr().err.splitlines()
        assert line.startswith("jaxbusi: ")
        assert part in line
