"""A config is refused by the name of what is wrong in it."""

import json

import pytest
from ml_collections import ConfigDict

from configs import demo, fusion, fusion_dinov2, googlenet, resnet18, vit_b16, vit_dinov2
from jaxbusi.errors import UserError
from jaxbusi.settings import Settings, differences


@pytest.mark.parametrize(
    "config", [demo, fusion, fusion_dinov2, googlenet, resnet18, vit_b16, vit_dinov2]
)
def test_every_config_is_valid_and_survives_json(config):
    settings = Settings.from_config(config.get_config())
    again = Settings.from_config(json.loads(json.dumps(settings.to_json())))
    assert again == settings


def test_fusion_is_the_paper():
    settings = Settings.from_config(fusion.get_config())
    assert (settings.num_epochs, settings.batch_size) == (30, 64)
    assert settings.optim.learning_rate == 1e-3
    assert settings.optim.l2 == 1e-5
    assert (settings.optim.decay_every, settings.optim.decay_factor) == (10, 0.1)
    assert settings.model.branches == ("resnet18", "vit")
    assert (settings.model.vit, settings.model.pooling) == ("B16", "mean")
    assert settings.model.hidden == (512, 128)
    assert settings.data.copies == 5
    augment = settings.data.augment
    assert (augment.resize, augment.crop, augment.scale) == (256, 224, (0.08, 1.0))


@pytest.mark.parametrize(
    ("path", "value", "message"),
    [
        ("sede", 1, "unknown setting config.sede; did you mean config.seed"),
        ("data.augment.scal", 1, "did you mean config.data.augment.scale"),
        ("batch_size", 0, "config.batch_size=0 must be above 0"),
        ("batch_size", 6.5, "config.batch_size=6.5 must be of type int"),
        ("num_epochs", "x", "config.num_epochs='x' must be of type float"),
        ("num_epochs", True, "config.num_epochs=True must be of type float"),
        ("seed", -1, "config.seed=-1 must be in"),
        ("data.on_bad_image", "ignore", "is not one of 'error', 'skip'"),
        ("data.protocol", "random", "config.data.protocol='random' is not one of 'paper', 'leaky'"),
        ("num_epochs", float("inf"), "config.num_epochs=inf must be a finite number"),
        ("data.views", 10**400, "config.data.views must be a number below"),
        ("data.augment.hue", float("nan"), "config.data.augment.hue=nan must be a finite number"),
        (
            "data.augment.ratio",
            (0.5, float("inf")),
            r"augment.ratio\[1\]=inf must be a finite number",
        ),
        ("model.hidden", (16**5000,), r"config.model.hidden\[0\] must be a number below"),
        ("data.augment.scale", (16**5000,), "config.data.augment.scale=a tuple must hold 2 values"),
        ("seed\n", 1, r"unknown setting config.seed\\n; did you mean config.seed"),
        ("data.folds", 1, "config.data.folds=1 must be 0, or 2 or more"),
        ("data.fold", 1, "config.data.fold=1 does not exist; config.data.folds=0 has none"),
        ("data.train_fraction", 1.0, "must be in"),
        ("data.augment.scale", (0.9, 0.1), "scale=.0.9, 0.1.: must be"),
        ("data.augment.scale", (0.9,), "config.data.augment.scale=.0.9,. must hold 2 values"),
        ("data.augment.scale", ("a", "b"), "scale.0.='a' must be of type float"),
        ("model.branches", "vit", "config.model.branches='vit' must be a tuple"),
        ("model.hidden", (0,), "config.model.hidden.0.=0 must be above 0"),
        ("data", 3, "config.data is 3; it must hold settings"),
        ("accumulate", 3, "config.batch_size=64 is not divisible by config.accumulate=3"),
        ("optim.name", "sgd", "config.optim.name='sgd' is not one of 'adam', 'adamw'"),
        ("optim.schedule", "linear", "is not one of 'staircase', 'cosine'"),
        ("optim.factors.vit", 0.0, "config.optim.factors.vit=0.0 must be above 0"),
        ("optim.factors.vti", 0.1, "did you mean config.optim.factors.vit"),
        ("optim.vit_layer_decay", 1.1, "config.optim.vit_layer_decay=1.1 must be in"),
        ("freeze.vit", -2.0, "config.freeze.vit=-2.0 must be 0 or more epochs, or -1 for good"),
        ("freeze.vit", "always", "config.freeze.vit='always' must be of type float"),
        ("loss.label_smoothing", 1.0, "config.loss.label_smoothing=1.0 must be in"),
        ("mixing.mixup_alpha", -0.1, "config.mixing.mixup_alpha=-0.1 must be 0 or more"),
        ("data.sampling", "equal", "is not one of 'natural', 'balanced'"),
        ("checkpoint.evaluate", "best", "choosing a checkpoint on the test part is not offered"),
    ],
)
def test_a_bad_setting_is_named(path, value, message):
    config = fusion.get_config().to_dict()
    *folders, key = path.split(".")
    inner = config
    for folder in folders:
        inner = inner[folder]
    inner[key] = value
    with pytest.raises(UserError, match=message) as error:
        Settings.from_config(ConfigDict(config, convert_dict=True))
    assert "\n" not in str(error.value)


def test_a_missing_setting_is_named():
    config = fusion.get_config().to_dict()
    del config["optim"]["l2"]
    with pytest.raises(UserError, match=r"config\.optim\.l2 is missing"):
        Settings.from_config(config)


def test_differences_are_listed_by_key():
    old = {"a": 1, "b": {"c": 2, "d": 3}}
    new = {"a": 1, "b": {"c": 5, "d": 3}, "e": 4}
    assert differences(old, old) == []
    assert differences(old, new) == ["config.b.c: 2, now 5", "config.e: None, now 4"]


def test_patience_needs_a_validation_part():
    config = fusion.get_config()
    config.patience = 3
    with pytest.raises(UserError, match=r"config\.patience=3 needs config\.data\.validation_fra"):
        Settings.from_config(config)


def test_leaky_has_no_validation_part():
    config = fusion.get_config()
    config.data.protocol = "leaky"
    config.data.validation_fraction = 0.1
    with pytest.raises(UserError, match=r"'leaky' .*config\.data\.validation_fraction=0"):
        Settings.from_config(config)


def test_settings_that_contradict_each_other_are_named():
    config = fusion.get_config()
    config.optim.schedule = "cosine"
    config.optim.warmup_epochs = 30.0
    with pytest.raises(UserError, match=r"config\.optim\.warmup_epochs=30 leaves nothing of"):
        Settings.from_config(config)
    config = fusion.get_config()
    config.data.sampling = config.loss.class_weights = "balanced"
    with pytest.raises(UserError, match="would balance the classes twice; set one of them"):
        Settings.from_config(config)
