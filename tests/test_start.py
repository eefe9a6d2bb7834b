"""Runs that start from public weights: in place, frozen, resumed, evaluated, refused."""

import json

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from jaxbusi.checkpoints import Checkpoints
from jaxbusi.errors import UserError
from jaxbusi.models.vit import SIZES, ViTSize
from jaxbusi.predict import Predictor
from jaxbusi.train import Stopped, evaluate, train_and_evaluate
from jaxbusi.weights.load import read_weights
from tests.reference.shapes import vit_shapes
from tests.runs import make_config, stop_after

pytestmark = pytest.mark.usefixtures("undrawn")

SMALL = ViTSize(patch=16, width=8, depth=1, heads=2, mlp=16, class_token=True)


@pytest.fixture(autouse=True)
def small_size(monkeypatch):
    """What the weights bring is not in the named size."""
    monkeypatch.setitem(SIZES, "small", ViTSize(patch=16, width=8, depth=1, heads=2, mlp=16))


@pytest.fixture
def weights(tmp_path):
    """A transformer under timm's names with a grid of 4 x 4; the runs' images have 2 x 2."""
    rng = np.random.default_rng(0)
    shapes = vit_shapes(SMALL, 64)
    state = {name: rng.normal(0, 0.3, shape).astype(np.float32) for name, shape in shapes.items()}
    path = tmp_path / "vit.safetensors"
    save_file(state, path)
    return path


def small_config(phantoms, weights, **changes):
    return make_config(
        phantoms,
        **{
            "num_epochs": 1.0,
            "model.branches": ("vit",),
            "model.vit": "small",
            "model.pooling": "both",
            "model.hidden": (),
            "weights.vit": str(weights),
            "data.augment.resize": 36,
            "data.augment.crop": 32,
            **changes,
        },
    )


def trained(workdir):
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    restored = checkpoints._manager.restore(checkpoints.latest_step())
    checkpoints.close()
    return restored["weights"]


def test_a_frozen_branch_is_the_file_to_the_end(tmp_path, phantoms, weights):
    config = small_config(phantoms, weights, **{"freeze.vit": -1.0, "ema_decay": 0.5})
    results = train_and_evaluate(config, tmp_path / "run")
    params = trained(tmp_path / "run")["params"]
    state = load_file(weights)
    np.testing.assert_array_equal(params["vit"]["class_token"], state["cls_token"])
    np.testing.assert_array_equal(
        params["vit"]["layer_0"]["attn"]["qkv"]["kernel"], state["blocks.0.attn.qkv.weight"].T
    )
    assert params["vit"]["position_embedding"].shape == (1, 5, 8)

    origin = json.loads((tmp_path / "run" / "config.json").read_text())["origins"]["vit"]
    assert origin["sha256"] == read_weights(weights).origin.sha256
    assert (origin["mean"], origin["class_token"]) == ([0.5] * 3, True)

    # From here on the file is not needed.
    weights.unlink()
    assert evaluate(None, tmp_path / "run") == results
    assert Predictor.load(tmp_path / "run")([np.zeros((5, 9, 3), np.uint8)]).shape == (1, 3)
    assert train_and_evaluate(config, tmp_path / "run") == results
    again = small_config(phantoms, "", **{"init_from": str(tmp_path / "run")})
    train_and_evaluate(again, tmp_path / "again")
    assert json.loads((tmp_path / "again" / "config.json").read_text())["origins"]["vit"] == origin


def test_a_stopped_run_goes_on_without_the_file(tmp_path, phantoms, weights, monkeypatch):
    config = small_config(phantoms, weights)
    whole = train_and_evaluate(config, tmp_path / "whole")
    undo = stop_after(monkeypatch, 2)
    with pytest.raises(Stopped):
        train_and_evaluate(config, tmp_path / "parted")
    undo()
    weights.unlink()
    assert train_and_evaluate(config, tmp_path / "parted") == whole
    for ours, theirs in zip(
        jax.tree.leaves(trained(tmp_path / "whole")),
        jax.tree.leaves(trained(tmp_path / "parted")),
        strict=True,
    ):
        np.testing.assert_array_equal(ours, theirs)


def test_the_branch_sees_images_normalised_as_its_own_were(tmp_path, phantoms, weights):
    """The statistics beside the file change what an otherwise equal run computes."""
    one = train_and_evaluate(small_config(phantoms, weights), tmp_path / "one")
    statistics = {"mean": [0.1] * 3, "std": [0.9] * 3, "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": statistics}))
    two = train_and_evaluate(small_config(phantoms, weights), tmp_path / "two")
    assert one != two
    assert evaluate(None, tmp_path / "two") == two


def test_another_file_in_the_workdir_of_a_run_is_refused(tmp_path, phantoms, weights, monkeypatch):
    config = small_config(phantoms, weights)
    monkeypatch.setattr("jaxbusi.start._holds_checkpoint", lambda _: False)
    train_and_evaluate(config, tmp_path / "run")
    state = load_file(weights)
    save_file({name: array + 1 for name, array in state.items()}, weights)
    with pytest.raises(UserError, match=r"config\.weights\.vit is another file than the run"):
        train_and_evaluate(config, tmp_path / "run")
    save_file(state, weights)
    statistics = {"mean": [0.1] * 3, "std": [0.9] * 3, "interpolation": "bicubic"}
    (tmp_path / "config.json").write_text(json.dumps({"pretrained_cfg": statistics}))
    with pytest.raises(UserError, match=r"config\.weights\.vit now asks for mean \(0\.1, "):
        train_and_evaluate(config, tmp_path / "run")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model.vit": "B16"}, r"width 8, depth 1, .*'B16' has .*width 768"),
        (
            {"weights.vit": "", "weights.resnet18": "x"},
            r"config\.weights\.resnet18=x is for a b",
        ),
        ({"init_from": "x"}, r"config\.init_from brings the weights .* config\.weights\.vit"),
        ({"weights.vit": "none.pth"}, r"none\.pth does not exist"),
    ],
)
def test_what_does_not_fit_is_refused(tmp_path, phantoms, weights, changes, message):
    with pytest.raises(UserError, match=message):
        train_and_evaluate(small_config(phantoms, weights, **changes), tmp_path / "run")


def test_a_pooling_that_the_weights_cannot_serve_is_refused(tmp_path, phantoms, weights):
    state = load_file(weights)
    del state["cls_token"]
    state["pos_embed"] = np.ascontiguousarray(state["pos_embed"][:, 1:])
    save_file(state, weights)
    with pytest.raises(UserError, match=r"needs a class token.*pooling='mean'"):
        train_and_evaluate(small_config(phantoms, weights), tmp_path / "run")
    results = train_and_evaluate(
        small_config(phantoms, weights, **{"model.pooling": "mean"}), tmp_path / "run"
    )
    assert results["parts"]["test"]["images"]["count"] == 6
