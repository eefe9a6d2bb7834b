"""Public checkpoints give the features of their origins, at the size of their grid and another."""

import json
import zlib
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxbusi.errors import UserError
from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import SIZES
from jaxbusi.settings import ModelSettings
from jaxbusi.train import build_model
from jaxbusi.weights.load import BranchWeights, load_branch, read_weights
from jaxbusi.weights.positions import resize_positions
from tests.conftest import HAS_TORCH
from tests.reference import formats
from tests.reference.formats import FORMATS, Format
from tests.reference.results import RECORDED


@pytest.fixture(scope="module")
def recorded() -> dict[str, np.ndarray]:
    with np.load(RECORDED / "formats.npz") as file:
        return dict(file)


@pytest.fixture(autouse=True)
def small_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """The sizes of the seeded transformers; what a checkpoint brings itself is not in them."""
    monkeypatch.setitem(SIZES, "small16", formats.PLAIN)
    monkeypatch.setitem(SIZES, "small14", formats.dataclasses.replace(formats.PLAIN, patch=14))


def write(format_: Format, folder: Path) -> Path:
    """The checkpoint in a container that its origin uses."""
    if format_.name.startswith("google"):
        path = folder / "file"
        with path.open("wb") as file:
            np.savez(file, allow_pickle=False, **format_.state())
        return path
    path = folder / "file.safetensors"
    save_file({name: np.ascontiguousarray(x) for name, x in format_.state().items()}, path)
    return path


def load(format_: Format, path: Path, side: int) -> tuple[Classifier, BranchWeights]:
    vit = f"small{format_.size.patch}"
    weights = load_branch(str(path), format_.branch, vit=vit, image_size=side)
    pooling = "both" if format_.size.class_token else "mean"
    settings = ModelSettings((format_.branch,), vit, pooling, remat=False, hidden=(), dropout=0.0)
    return build_model(settings, "float32", {format_.branch: weights.origin}), weights


def features(model: Classifier, weights: BranchWeights, images: np.ndarray) -> np.ndarray:
    (branch,) = model.branches
    width = {"resnet18": 512, "googlenet": 1024, "vit": 32 * (1 + (model.pooling == "both"))}
    head = {"logits": {"kernel": jnp.zeros((width[branch], 3)), "bias": jnp.zeros(3)}}
    variables = {kind: {branch: tree} for kind, tree in weights.variables.items()}
    variables["params"]["head"] = head
    output = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    return np.asarray(output.features[branch])


@pytest.mark.torch(required=False)
@pytest.mark.parametrize("place", [0, 1], ids=["own_grid", "other_grid"])
@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_features_are_the_origins(format_, place, recorded, tmp_path):
    side = format_.sizes[place]
    model, weights = load(format_, write(format_, tmp_path), side)
    images = formats.images(side)
    ours = features(model, weights, images)
    scaled = images.astype(np.float32) / 255
    expected = [recorded[f"{format_.name}_{side}"]] if format_.live else []
    if not format_.live or HAS_TORCH:
        expected.append(format_.features(scaled))
    assert ours.std() > 0.1
    for theirs in expected:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-4)


@pytest.mark.parametrize("format_", FORMATS, ids=lambda format_: format_.name)
def test_a_converted_file_is_the_public_one(format_, tmp_path):
    from jaxbusi.convert import main

    public, converted = write(format_, tmp_path), tmp_path / "new" / "converted.safetensors"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", ["convert", str(public), str(converted)])
        main()
    one, two = read_weights(public), read_weights(converted)
    assert one.origin == two.origin
    for ours, theirs in zip(
        jax.tree.leaves_with_path(one.variables),
        jax.tree.leaves_with_path(two.variables),
        strict=True,
    ):
        assert ours[0] == theirs[0]
        np.testing.assert_array_equal(ours[1], theirs[1])
    mean, std = format_.statistics
    assert (one.origin.branch, one.origin.mean, one.origin.std) == (format_.branch, mean, std)
    assert one.origin.crop == 224
    assert all(array.dtype == np.float32 for array in load_file(converted).values())


@pytest.mark.torch(required=False)
@pytest.mark.parametrize(("old", "new"), formats.GRIDS)
def test_position_grids_are_resized_as_torch_does(old, new, recorded):
    positions = formats.grid_positions(old)
    ours = resize_positions(positions, new, class_token=True)
    expected = [recorded[f"positions_{old}_{new}"]]
    if HAS_TORCH:
        expected.append(formats.torch_positions(positions, new, class_token=True))
    for theirs in expected:
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-5)
    np.testing.assert_array_equal(ours[:, 0], positions[:, 0])


@pytest.mark.torch
def test_what_is_recorded_is_what_the_origins_give(recorded, monkeypatch, tmp_path):
    monkeypatch.setattr(formats, "RECORDED", tmp_path)
    formats.record()
    with np.load(tmp_path / "formats.npz") as file:
        assert set(file) == set(recorded)
        for name, array in file.items():
            np.testing.assert_allclose(array, recorded[name], rtol=0, atol=1e-5)


# --- statistics ----------------------------------------------------------------------------------


def timm_file(folder: Path) -> Path:
    return write(next(format_ for format_ in FORMATS if format_.name == "timm_vit"), folder)


def named(name: str, folder: Path) -> Path:
    folder.mkdir(exist_ok=True)
    return write(next(format_ for format_ in FORMATS if format_.name == name), folder)


def test_statistics_beside_the_file_win_where_the_format_leaves_them_open(tmp_path):
    """Only what the format's own origin writes counts: a folder may hold several checkpoints."""
    config = {"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "interpolation": "bilinear"}
    hugging = {"image_mean": [0.3] * 3, "image_std": [0.2] * 3, "resample": 1}
    path = timm_file(tmp_path)
    assert read_weights(path).origin.stated == "assumed"
    (tmp_path / "preprocessor_config.json").write_text(json.dumps(hugging))
    assert read_weights(path).origin.stated == "assumed"
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
    origin = read_weights(path).origin
    assert (origin.mean, origin.std) == ((0.1, 0.2, 0.3), (0.4, 0.5, 0.6))
    assert (origin.interpolation, origin.stated) == ("bilinear", "config.json")

    origin = read_weights(named("huggingface_vit_classic", tmp_path)).origin
    assert (origin.std, origin.interpolation) == ((0.2,) * 3, "lanczos")
    assert origin.stated == "preprocessor_config.json"

    origin = read_weights(named("torchvision_resnet18", tmp_path)).origin
    assert (origin.mean, origin.stated) == (formats.IMAGENET[0], "by the format")


def test_statistics_that_make_no_sense_are_refused(tmp_path):
    path = timm_file(tmp_path)
    for std in (0.0, float("nan"), 60.0):
        config = {"mean": [0.1] * 3, "std": [std] * 3, "interpolation": "bilinear"}
        (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": config}))
        with pytest.raises(UserError, match=r"\(config\.json\): images cannot have the mean"):
            read_weights(path)


def test_a_class_token_without_a_position_gets_zeros(tmp_path):
    """DeiT-III: timm's `no_embed_class`."""
    path = timm_file(tmp_path)
    state = load_file(path)
    positions = state["pos_embed"]
    save_file(state | {"pos_embed": positions[:, 1:].copy()}, path)
    params = load_branch(str(path), "vit", vit="small16", image_size=224).variables["params"]
    np.testing.assert_array_equal(params["position_embedding"][:, :1], 0.0)
    np.testing.assert_array_equal(params["position_embedding"][:, 1:], positions[:, 1:])
    save_file(state | {"pos_embed": positions[:, :-2].copy()}, path)
    with pytest.raises(UserError, match=r"\d+ position embeddings are no square grid"):
        load_branch(str(path), "vit", vit="small16", image_size=224)


def test_assumed_statistics_are_said(tmp_path, caplog):
    path = timm_file(tmp_path)
    load_branch(str(path), "vit", vit="small16", image_size=224)
    (record,) = [r for r in caplog.records if "assumed" in r.getMessage()]
    assert record.levelname == "WARNING"
    assert "head.weight" in record.getMessage()  # what was dropped is said too


def test_deit_is_told_by_its_wrapper(tmp_path):
    """Facebook's own files nest their names under `model`; see tests/test_pickles.py for .pth."""
    from jaxbusi.weights.files import Tensors
    from jaxbusi.weights.recognise import recognise

    state = next(format_ for format_ in FORMATS if format_.name == "timm_vit").state()
    found = recognise(tmp_path / "x", Tensors(state, {}, "model", ""))
    assert found.statistics.mean == formats.IMAGENET[0]


# --- the real file -------------------------------------------------------------------------------


@pytest.mark.torch(required=False)
def test_dinov2_small_is_hugging_faces(dinov2_small, recorded):
    """Recorded from Hugging Face's Dinov2Model; with `transformers` here, compared live too."""
    images = formats.images(224)
    weights = load_branch(str(dinov2_small), "vit", vit="S14", image_size=224)
    assert weights.origin.crop == 518
    assert zlib.crc32(weights.origin.sha256.encode()) == recorded["dinov2_small_sha256"]
    settings = ModelSettings(("vit",), "S14", "both", remat=False, hidden=(), dropout=0.0)
    model = build_model(settings, "float32", {"vit": weights.origin})
    variables = {"params": {"vit": weights.variables["params"]}}
    variables["params"]["head"] = {"logits": {"kernel": jnp.zeros((768, 3)), "bias": jnp.zeros(3)}}
    output = jax.jit(lambda v, x: model.apply(v, x, train=False))(variables, images)
    ours = np.asarray(output.features["vit"])
    np.testing.assert_allclose(ours, recorded["dinov2_small"], rtol=0, atol=1e-3)
    if HAS_TORCH:
        theirs = formats.dinov2_small_features(dinov2_small, images)
        np.testing.assert_allclose(ours, theirs, rtol=0, atol=1e-3)
