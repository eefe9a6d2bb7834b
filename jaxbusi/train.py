"""The experiment: images → model → steps → checkpoints → results, wired here and only here."""

import dataclasses
import functools
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import parameter_overview
from jax.sharding import Mesh

from jaxbusi import cluster, familiarity, start
from jaxbusi import workdir as workdirs
from jaxbusi.checkpoints import Checkpoints
from jaxbusi.data.parts import PartSet, load_parts
from jaxbusi.data.records import CLASSES
from jaxbusi.errors import Stopped, UserError
from jaxbusi.evaluate import Evaluator, announce_leakage
from jaxbusi.features import compute_features
from jaxbusi.loop import Durations, Loop
from jaxbusi.losses import CrossEntropy, balanced_weights
from jaxbusi.mixing import Mixing
from jaxbusi.models.fusion import Classifier, vit_size
from jaxbusi.models.vit import ViTSize
from jaxbusi.optim import make_optimizer, make_schedule
from jaxbusi.settings import ModelSettings, Settings
from jaxbusi.state import TrainState, Tree, abstract_variables, create_state, make_mesh
from jaxbusi.steps import train_step
from jaxbusi.weights.load import Origin

__all__ = ["Stopped", "build_model", "evaluate", "load_model", "train_and_evaluate"]


def train_and_evaluate(
    config: Mapping[str, Any], workdir: str | Path, *, features: Path | None = None
) -> dict[str, Any]:
    """Trains, evaluates and reports; goes on where an earlier run in the workdir stopped.

    Args:
      config: as `configs/fusion.py` makes it.
      workdir: folder for everything the run writes.
      features: folder for the features of frozen branches, which runs may share; `features` in the
        workdir by default.

    Returns:
      The content of results.json.

    Raises:
      UserError: bad input or settings.
      Stopped: SIGTERM or SIGINT arrived; the state is saved.
    """
    settings, workdir = Settings.from_config(config), Path(workdir)
    with workdirs.claim(workdir):
        return _train_and_evaluate(settings, workdir, features or workdir / "features")


def evaluate(config: Mapping[str, Any] | None, workdir: str | Path) -> dict[str, Any]:
    """Evaluates and reports from the checkpoints in a workdir.

    Args:
      config: the run's config, or None to take it from the workdir.
      workdir: a folder that `train_and_evaluate` wrote.

    Returns:
      The content of results.json.

    Raises:
      UserError: the workdir holds no checkpoint, or a run with other settings.
    """
    workdir = Path(workdir)
    stored = workdirs.read_settings(workdir)
    settings = stored if config is None else Settings.from_config(config)
    with workdirs.claim(workdir):
        mesh, model, parts = _prepare(settings, workdir, workdirs.read_origins(workdir))
        checkpoints = _saved(workdir, settings)
        try:
            like = abstract_variables(model, mesh, image_size=settings.data.augment.crop)
            # Features that training kept are left aside: this looks at the images again.
            evaluator = Evaluator(model, mesh, settings, parts)
            return _evaluate(like, evaluator, checkpoints, settings, workdir, parts)
        finally:
            checkpoints.close()


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """What predicting takes of a run.

    Attributes:
      settings: of the run.
      model: its classifier.
      variables: the weights that its evaluation applies.
      step: of the checkpoint that they are from.
    """

    settings: Settings
    model: Classifier
    variables: Tree
    step: int


def load_model(workdir: str | Path, mesh: Mesh) -> TrainedRun:
    """Reads a run's classifier with the weights that its evaluation applies.

    Args:
      workdir: a folder that `train_and_evaluate` wrote.
      mesh: where the weights go.

    Raises:
      UserError: the workdir holds no run or no checkpoint.
    """
    workdir = Path(workdir)
    settings = workdirs.read_settings(workdir)
    model = build_model(settings.model, settings.compute_dtype, workdirs.read_origins(workdir))
    checkpoints = _saved(workdir, settings)
    try:
        like = abstract_variables(model, mesh, image_size=settings.data.augment.crop)
        step, variables = _evaluated(checkpoints, settings, workdir, like)
        return TrainedRun(settings, model, variables, step)
    finally:
        checkpoints.close()


def build_model(
    settings: ModelSettings, compute_dtype: str, origins: Mapping[str, Origin] | None = None
) -> Classifier:
    """Returns the classifier that `config.model` describes.

    Args:
      settings: `config.model`.
      compute_dtype: `config.compute_dtype`.
      origins: of the branches that start from public weights: each is fed images normalised as its
        own were, and a transformer has the class token and LayerScale that its weights have.

    Raises:
      UserError: it names a branch, size or pooling that there is not.
    """
    origins = origins or {}
    vit: ViTSize | str = settings.vit
    # The paper pools the patches; a class token is there only where the pooling reads it, or the
    # size or the weights, being those of a public checkpoint, bring one.
    class_token = True if settings.pooling != "mean" else None
    if "vit" in origins:
        origin = origins["vit"]
        class_token = origin.class_token
        vit = dataclasses.replace(vit_size(settings.vit), layer_scale=origin.layer_scale)
    return Classifier(
        branches=settings.branches,
        vit=vit,
        pooling=settings.pooling,
        class_token=class_token,
        remat=settings.remat,
        hidden=settings.hidden,
        dropout=settings.dropout,
        normalization=tuple((name, o.mean, o.std) for name, o in origins.items()),
        dtype=jnp.dtype(compute_dtype),
    )


def _train_and_evaluate(settings: Settings, workdir: Path, features: Path) -> dict[str, Any]:
    origins, pretrained = start.public_weights(settings, workdir)
    mesh, model, parts = _prepare(settings, workdir, origins)
    announce_leakage(workdir, settings, parts)
    durations = Durations.resolve(settings, len(parts["train"].samples))
    schedule = make_schedule(
        settings.optim,
        decay_steps=durations.decay,
        warmup_steps=durations.warmup,
        total_steps=durations.total,
    )
    optimizer = make_optimizer(settings.optim, schedule, thaw=durations.thaw)
    state = _random_state(model, optimizer, mesh, settings)
    logging.info("parameters:\n%s", _overview(state.params))
    step_fn = functools.partial(
        train_step,
        model=model,
        optimizer=optimizer,
        seed=settings.seed,
        loss=_loss(settings, parts["train"].samples.label),
        mixing=Mixing(settings.mixing.mixup_alpha, settings.mixing.cutmix_alpha),
        accumulate=settings.accumulate,
        ema_decay=settings.ema_decay,
    )
    checkpoints = Checkpoints(
        workdir / "checkpoints",
        keep=settings.checkpoint.keep,
        best=settings.data.validation_fraction > 0,
    )
    try:
        state = start.first_state(state, checkpoints, settings, pretrained)
        known = compute_features(model, state.variables(), mesh, settings, parts, features)
        evaluator = Evaluator(model, mesh, settings, parts, known)
        loop = Loop(settings, workdir, mesh, durations, schedule, checkpoints, evaluator, known)
        state = loop.train(state, step_fn, parts["train"])
        checkpoints.wait()
        return _evaluate(state.variables(), evaluator, checkpoints, settings, workdir, parts)
    finally:
        checkpoints.close()


def _prepare(
    settings: Settings, workdir: Path, origins: Mapping[str, Origin]
) -> tuple[Mesh, Classifier, PartSet]:
    """Checks the settings against devices and workdir, and reads the images."""
    mesh = make_mesh()
    _check_batch_size(settings, mesh)
    model = build_model(settings.model, settings.compute_dtype, origins)
    workdirs.prepare(workdir, settings, origins)
    device = jax.devices()[0]
    logging.info(
        "jax %s on %d × %s (%s), %d process(es)",
        jax.__version__,
        mesh.size,
        device.device_kind,
        device.platform,
        jax.process_count(),
    )
    parts = load_parts(settings.data, seed=settings.seed, workdir=workdir)
    return mesh, model, parts


def _random_state(
    model: Classifier, optimizer: optax.GradientTransformation, mesh: Mesh, settings: Settings
) -> TrainState:
    return create_state(
        model,
        optimizer,
        mesh,
        seed=settings.seed,
        image_size=settings.data.augment.crop,
        average=settings.ema_decay > 0,
    )


def _overview(params: Tree) -> str:
    # Their mean and deviation would take a second and the memory of another copy.
    return parameter_overview.get_parameter_overview(params, include_stats=False)


def _loss(settings: Settings, labels: np.ndarray) -> CrossEntropy:
    """The loss that `config.loss` describes, its weights counted in int[N] training labels."""
    balanced = settings.loss.class_weights == "balanced"
    return CrossEntropy(
        label_smoothing=settings.loss.label_smoothing,
        class_weights=balanced_weights(labels, len(CLASSES)) if balanced else None,
    )


def _check_batch_size(settings: Settings, mesh: Mesh) -> None:
    unit = mesh.size * settings.accumulate
    if settings.batch_size % unit:
        near = max(unit, round(settings.batch_size / unit) * unit)
        micro = f" times config.accumulate={settings.accumulate}" if settings.accumulate > 1 else ""
        raise UserError(
            f"config.batch_size={settings.batch_size} is not divisible by the {mesh.size} "
            f"devices{micro}; {near} is"
        )


def _saved(workdir: Path, settings: Settings) -> Checkpoints:
    best = settings.data.validation_fraction > 0
    return Checkpoints(workdir / "checkpoints", best=best, read_only=True)


def _evaluated(
    checkpoints: Checkpoints, settings: Settings, workdir: Path, like: Tree
) -> tuple[int, Tree]:
    """The step and the weights of the checkpoint that `config.checkpoint.evaluate` names."""
    restore = functools.partial(checkpoints.restore_variables, like)
    if settings.checkpoint.evaluate == "latest":
        found = checkpoints.newest(restore)
    else:
        step = checkpoints.best_step()
        found = None if step is None else (step, restore(step))
    if found is None:
        raise UserError(
            f"{workdir}/checkpoints holds no {settings.checkpoint.evaluate} checkpoint; train first"
        )
    return found


def _evaluate(
    like: Tree,
    evaluator: Evaluator,
    checkpoints: Checkpoints,
    settings: Settings,
    workdir: Path,
    parts: PartSet,
) -> dict[str, Any]:
    """Restores the weights that `config.checkpoint.evaluate` names and writes the evidence.

    They are read back even after training, so that what is reported is what is on disk.
    """
    step, variables = _evaluated(checkpoints, settings, workdir, like)
    seen = {name: evaluator.predict(variables, name) for name in evaluator.evaluated}
    predictions = {name: rows for name, (rows, _) in seen.items()}
    described = {name: features for name, (_, features) in seen.items()}
    training = None
    if len(described.get("validation", ())) >= familiarity.LEAST:
        training = evaluator.training_features(variables, familiarity.MOST_TRAINING)
    checkpoint = {"step": step, "chosen": settings.checkpoint.evaluate}

    def write() -> dict[str, Any]:
        from jaxbusi.evidence import write_evidence  # its libraries take seconds to import

        if training is not None:
            familiarity.write(workdir, familiarity.fit(*training, described["validation"]), step)
        return write_evidence(workdir, settings, predictions, parts, checkpoint)

    return cluster.on_first(write)
