"""A config, checked once: every key known, of its type, in its range.

Commands hand over an `ml_collections.ConfigDict`, which takes a string where a number was meant
and any object inside a tuple. What the program reads are these frozen dataclasses.
"""

import dataclasses
import difflib
import math
import types
import typing
from collections.abc import Callable, Mapping
from typing import Annotated, Any, Literal, TypeVar

from jaxbusi.data.augment import AugmentSettings
from jaxbusi.data.protocols import Protocol
from jaxbusi.errors import UserError

T = TypeVar("T")

_LARGEST = 2**53
"""No whole number is meant to reach it; up to here floats hold every one."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Which values of a setting make sense, and how to say so."""

    wanted: str
    holds: Callable[[Any], bool]


AtLeast0 = Range("0 or more", lambda value: value >= 0)
Above0 = Range("above 0", lambda value: value > 0)
Share = Range("in [0, 1)", lambda value: 0 <= value < 1)
Factor = Range("in (0, 1]", lambda value: 0 < value <= 1)
Freezing = Range("0 or more epochs, or -1 for good", lambda value: value >= 0 or value == -1)


@dataclasses.dataclass(frozen=True)
class DataSettings:
    """`config.data`: which images, how they are split and how they are read."""

    root: str
    external: str
    protocol: Protocol
    groups: str
    split: str
    folds: Annotated[int, Range("0, or 2 or more", lambda value: value == 0 or value >= 2)]
    fold: Annotated[int, AtLeast0]
    phantoms: Annotated[int, AtLeast0]
    train_fraction: Annotated[float, Range("in (0, 1)", lambda value: 0 < value < 1)]
    validation_fraction: Annotated[float, Share]
    copies: Annotated[int, Above0]
    views: Annotated[int, AtLeast0]
    on_bad_image: Literal["error", "skip"]
    sampling: Literal["natural", "balanced"]
    cache_gib: Annotated[float, AtLeast0]
    workers: Annotated[int, AtLeast0]
    augment: AugmentSettings


@dataclasses.dataclass(frozen=True)
class ModelSettings:
    """`config.model`: the branches and the head."""

    branches: tuple[str, ...]
    vit: str
    pooling: Literal["mean", "class", "both"]
    remat: bool
    hidden: tuple[Annotated[int, Above0], ...]
    dropout: Annotated[float, Share]


@dataclasses.dataclass(frozen=True)
class WeightsSettings:
    """`config.weights`: files that the branches start from; empty for none."""

    resnet18: str
    vit: str
    googlenet: str


@dataclasses.dataclass(frozen=True)
class FactorSettings:
    """`config.optim.factors`: the learning rate of a branch or the head, as a multiple."""

    resnet18: Annotated[float, Above0]
    vit: Annotated[float, Above0]
    googlenet: Annotated[float, Above0]
    head: Annotated[float, Above0]


@dataclasses.dataclass(frozen=True)
class OptimSettings:
    """`config.optim`: Adam with L2 or AdamW, the rates of the parts, and their schedule."""

    name: Literal["adam", "adamw"]
    learning_rate: Annotated[float, Above0]
    l2: Annotated[float, AtLeast0]
    weight_decay: Annotated[float, AtLeast0]
    clip_norm: Annotated[float, AtLeast0]
    schedule: Literal["staircase", "cosine"]
    decay_every: Annotated[float, Above0]
    decay_factor: Annotated[float, Above0]
    warmup_epochs: Annotated[float, AtLeast0]
    factors: FactorSettings
    vit_layer_decay: Annotated[float, Factor]


@dataclasses.dataclass(frozen=True)
class FreezeSettings:
    """`config.freeze`: epochs for which a branch stays as it is."""

    resnet18: Annotated[float, Freezing]
    vit: Annotated[float, Freezing]
    googlenet: Annotated[float, Freezing]


@dataclasses.dataclass(frozen=True)
class LossSettings:
    """`config.loss`: what a step minimises."""

    label_smoothing: Annotated[float, Share]
    class_weights: Literal["none", "balanced"]


@dataclasses.dataclass(frozen=True)
class MixingSettings:
    """`config.mixing`: blends of training images."""

    mixup_alpha: Annotated[float, AtLeast0]
    cutmix_alpha: Annotated[float, AtLeast0]


@dataclasses.dataclass(frozen=True)
class CheckpointSettings:
    """`config.checkpoint`: when to save, what to keep, which one is evaluated."""

    every_epochs: Annotated[float, Above0]
    keep: Annotated[int, Above0]
    evaluate: Literal["latest", "best"]


@dataclasses.dataclass(frozen=True)
class Settings:
    """A whole config; the comments of `configs/fusion.py` explain every field."""

    seed: Annotated[int, Range("in [0, 2**32)", lambda value: 0 <= value < 2**32)]
    num_epochs: Annotated[float, Above0]
    patience: Annotated[int, AtLeast0]
    batch_size: Annotated[int, Above0]
    accumulate: Annotated[int, Above0]
    ema_decay: Annotated[float, Share]
    compute_dtype: Literal["float32", "bfloat16"]
    init_from: str
    data: DataSettings
    model: ModelSettings
    weights: WeightsSettings
    optim: OptimSettings
    freeze: FreezeSettings
    loss: LossSettings
    mixing: MixingSettings
    checkpoint: CheckpointSettings
    eval_every_epochs: Annotated[float, Above0]

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> "Settings":
        """Checks a config (a `ConfigDict` or nested mappings) and returns it typed.

        Raises:
          UserError: a key is unknown or missing, or a value is of the wrong type or out of range;
            the message names the key as it is written on the command line.
        """
        if "study" in config:
            raise UserError(
                "config.study describes many runs; give this config to python -m jaxbusi.study"
            )
        settings = build(cls, config, "config")
        _check_together(settings)
        return settings

    @property
    def cached_branches(self) -> tuple[str, ...]:
        """The branches whose features are computed once: frozen for good, on views that repeat."""
        frozen = dataclasses.asdict(self.freeze)
        return tuple(
            name for name in self.model.branches if self.data.views > 0 and frozen[name] == -1
        )

    def to_json(self) -> dict[str, Any]:
        """Returns nested dictionaries and lists, as `config.json` holds them."""
        return jsonable(dataclasses.asdict(self))


def jsonable(value: Any) -> Any:
    """Returns settings, a `ConfigDict` or mappings, as nested dictionaries and lists."""
    if hasattr(value, "items"):
        return {key: jsonable(item) for key, item in value.items()}
    return [jsonable(item) for item in value] if isinstance(value, tuple) else value


def build(cls: type[T], config: Mapping[str, Any], path: str) -> T:
    """Returns a dataclass of settings filled from a mapping, every value checked.

    Args:
      cls: the dataclass; its fields' types and `Range`s say what is allowed.
      config: a `ConfigDict` or nested mappings.
      path: as which messages name it.

    Raises:
      UserError: a key is unknown or missing, or a value is of the wrong type or out of range.
    """
    if not isinstance(config, Mapping) and not hasattr(config, "items"):
        raise UserError(f"{path} is {_shown(config)}; it must hold settings by name")
    hints = typing.get_type_hints(cls, include_extras=True)
    given = dict(config.items())
    for key in given:
        if key not in hints:
            near = difflib.get_close_matches(str(key), hints, n=1, cutoff=0.0)[0]
            raise UserError(f"unknown setting {path}.{key}; did you mean {path}.{near}?")
    values = {}
    for name, hint in hints.items():
        if name not in given:
            raise UserError(f"{path}.{name} is missing; start from configs/fusion.py, which has it")
        values[name] = _convert(hint, given[name], f"{path}.{name}")
    try:
        return cls(**values)
    except UserError as error:  # some settings check their own ranges
        raise UserError(f"{path}: {error}") from error


def _convert(hint: Any, value: Any, path: str) -> Any:
    if isinstance(value, int) and abs(value) >= _LARGEST:
        raise UserError(f"{path} must be a number below {_LARGEST:g}")
    if isinstance(value, float) and not math.isfinite(value):  # infinity is "above 0"
        raise UserError(f"{path}={value} must be a finite number")
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is Annotated:
        value = _convert(arguments[0], value, path)
        if not arguments[1].holds(value):
            raise UserError(f"{path}={_shown(value)} must be {arguments[1].wanted}")
        return value
    if dataclasses.is_dataclass(hint):
        return build(typing.cast(type, hint), value, path)
    if origin is Literal:
        if value not in arguments:
            raise UserError(
                f"{path}={_shown(value)} is not one of {', '.join(map(repr, arguments))}"
            )
        return value
    if origin is Mapping:
        if not hasattr(value, "items"):
            raise UserError(f"{path}={_shown(value)} must hold settings by name")
        return value
    if origin is tuple:
        if not isinstance(value, (tuple, list)):
            raise UserError(f"{path}={_shown(value)} must be a tuple")
        kinds = [arguments[0]] * len(value) if arguments[-1] is Ellipsis else list(arguments)
        if len(kinds) != len(value):
            raise UserError(f"{path}={_shown(value)} must hold {len(kinds)} values")
        return tuple(
            _convert(kind, item, f"{path}[{i}]")
            for i, (kind, item) in enumerate(zip(kinds, value, strict=True))
        )
    # JSON and the command line write 30 for 30.0; the other way round would lose something.
    accepted: type | types.UnionType = int | float if hint is float else hint
    if not isinstance(value, accepted) or isinstance(value, bool) is not (hint is bool):
        raise UserError(f"{path}={_shown(value)} must be of type {hint.__name__}")
    return float(value) if hint is float else value  # type: ignore[arg-type]


def _shown(value: Any) -> str:
    try:
        return repr(value)
    except (ValueError, RecursionError):  # numbers of thousands of digits; lists in lists in lists
        return f"a {type(value).__name__}"


def _check_together(settings: Settings) -> None:
    """Checks what one setting demands of another."""
    if settings.batch_size % settings.accumulate:
        raise UserError(
            f"config.batch_size={settings.batch_size} is not divisible by "
            f"config.accumulate={settings.accumulate}"
        )
    if settings.patience and settings.data.validation_fraction == 0:
        raise UserError(
            f"config.patience={settings.patience} needs config.data.validation_fraction above 0: "
            "ending training by the test part is not offered"
        )
    if settings.checkpoint.evaluate == "best" and settings.data.validation_fraction == 0:
        raise UserError(
            "config.checkpoint.evaluate='best' needs config.data.validation_fraction above 0: "
            "choosing a checkpoint on the test part is not offered"
        )
    _check_data(settings.data)
    files = {name: path for name, path in dataclasses.asdict(settings.weights).items() if path}
    for name, path in files.items():
        if name not in settings.model.branches:
            raise UserError(
                f"config.weights.{name}={path} is for a branch that config.model.branches="
                f"{settings.model.branches} does not have"
            )
        if settings.init_from:
            raise UserError(
                f"config.init_from brings the weights of all branches, and config.weights.{name} "
                "those of one; empty one of them"
            )
    optim = settings.optim
    if optim.schedule == "cosine" and optim.warmup_epochs >= settings.num_epochs:
        raise UserError(
            f"config.optim.warmup_epochs={optim.warmup_epochs:g} leaves nothing of "
            f"config.num_epochs={settings.num_epochs:g}; warm up for less, or train longer"
        )
    if settings.cached_branches and (
        settings.mixing.mixup_alpha > 0 or settings.mixing.cutmix_alpha > 0
    ):
        raise UserError(
            "config.mixing blends images, of which config.data.views would keep the features of "
            f"{' and '.join(settings.cached_branches)}; set config.data.views=0 or mix nothing"
        )
    if settings.data.sampling == settings.loss.class_weights == "balanced":
        raise UserError(
            "config.data.sampling='balanced' and config.loss.class_weights='balanced' would "
            "balance the classes twice; set one of them"
        )


def _check_data(data: DataSettings) -> None:
    if data.fold >= max(data.folds, 1):
        raise UserError(
            f"config.data.fold={data.fold} does not exist; config.data.folds={data.folds} has "
            f"{f'0 to {data.folds - 1}' if data.folds else 'none: leave it at 0'}"
        )
    if data.protocol == "leaky" and data.validation_fraction:
        raise UserError(
            "config.data.protocol='leaky' divides copies in two, as publications do; set "
            "config.data.validation_fraction=0 or another protocol"
        )


def differences(old: Mapping[str, Any], new: Mapping[str, Any], path: str = "config") -> list[str]:
    """Lists the settings in which two nested mappings differ, as `config.KEY: OLD, now NEW`."""
    found = []
    for key in sorted({*old, *new}):
        before, now = old.get(key), new.get(key)
        if isinstance(before, Mapping) and isinstance(now, Mapping):
            found += differences(before, now, f"{path}.{key}")
        elif before != now:
            found.append(f"{path}.{key}: {before!r}, now {now!r}")
    return found
