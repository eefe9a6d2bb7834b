"""The one resume unit, the mesh it lives on, and the random keys."""

import functools
from typing import Any

import flax
import jax
import jax.numpy as jnp
import numpy as np
import optax
from clu import metrics as clu_metrics
from flax import linen as nn
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

Tree = Any
"""Nested dictionaries of arrays."""


@flax.struct.dataclass
class Confusion(clu_metrics.Metric):
    """Counts of examples by true (row) and predicted (column) class.

    Attributes:
      matrix: int32[C, C].
    """

    matrix: jax.Array

    @classmethod
    def empty(cls) -> "Confusion":
        """Returns zero counts for three classes."""
        return cls(matrix=jnp.zeros((3, 3), jnp.int32))

    @classmethod
    def from_model_output(
        cls, *, logits: jax.Array, labels: jax.Array, mask: jax.Array, **_: Any
    ) -> "Confusion":
        """Counts one batch, logits f[B, C], labels i32[B], without the rows whose mask is False."""
        classes = jnp.arange(logits.shape[-1], dtype=jnp.int32)
        truth = (labels[:, None] == classes[None, :]) & mask[:, None]
        predicted = jnp.argmax(logits, axis=-1)[:, None] == classes[None, :]
        return cls(matrix=truth.astype(jnp.int32).T @ predicted.astype(jnp.int32))

    def merge(self, other: "Confusion") -> "Confusion":
        """Adds the counts of another part of the data."""
        return Confusion(matrix=self.matrix + other.matrix)

    def compute(self) -> jax.Array:
        """Returns the counts."""
        return self.matrix


@flax.struct.dataclass
class Metrics(clu_metrics.Collection):
    """What training adds up on the device between two lines of the log."""

    loss: clu_metrics.Average.from_output("example_loss")  # type: ignore[valid-type]
    confusion: Confusion

    def summary(self) -> dict[str, float]:
        """Returns loss, accuracy, macro precision and macro recall; for metrics on the host.

        The averages run over the classes that occur; a class that was never predicted has
        precision 0.
        """
        values = self.compute()
        counts = np.asarray(values["confusion"], np.float64)
        hits, truth, called = np.diag(counts), counts.sum(axis=1), counts.sum(axis=0)
        present = truth > 0
        return {
            "loss": float(values["loss"]),
            "accuracy": float(hits.sum() / truth.sum()),
            "precision": float(np.mean((hits / np.maximum(called, 1))[present])),
            "recall": float(np.mean(hits[present] / truth[present])),
        }


@flax.struct.dataclass
class TrainState:
    """Everything that a resumed run needs; the data's position follows from `step`.

    Attributes:
      step: int32[], optimizer steps taken.
      params: float32 parameters, one sub-tree a branch and one for the head.
      batch_stats: float32 running statistics of batch normalisation.
      opt_state: the optimizer's moments and counters.
      average: moving average of {'params', 'batch_stats'}, or None where not asked for.
      metrics: sums since the last line of the training log.
    """

    step: jax.Array
    params: Tree
    batch_stats: Tree
    opt_state: Tree
    average: Tree | None
    metrics: Metrics

    def variables(self) -> Tree:
        """Returns what the model applies, as trained: {'params', 'batch_stats'}."""
        return {"params": self.params, "batch_stats": self.batch_stats}

    def inference_variables(self) -> Tree:
        """Returns what evaluation applies: the moving average where there is one."""
        return self.variables() if self.average is None else self.average


def make_mesh(devices: list[jax.Device] | None = None) -> Mesh:
    """Returns a mesh of all devices with the one axis `data`."""
    devices = jax.devices() if devices is None else devices
    # The default axis type, Explicit, breaks linen's dropout and concatenation on sharded batches.
    return jax.make_mesh((len(devices),), ("data",), axis_types=(AxisType.Auto,), devices=devices)


def replicated(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of parameters: a whole copy on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Returns the sharding of a batch: its first axis over the devices."""
    return NamedSharding(mesh, PartitionSpec("data"))


def step_key(seed: int, stream: int, step: jax.Array | int) -> jax.Array:
    """Returns the random key of one stream (0 weights, 1 dropout, 2 mixing) at one step.

    Keys are folded from what names them and never carried, so that a resumed run draws the same.
    """
    return jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), stream), step)


def create_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    mesh: Mesh,
    *,
    seed: int,
    image_size: int,
    average: bool,
) -> TrainState:
    """Returns a state with random weights, replicated over the mesh.

    Args:
      model: a `Classifier`.
      optimizer: makes the optimizer state.
      mesh: from `make_mesh`.
      seed: decides the weights.
      image_size: side of the model's square input, pixels.
      average: whether the state carries a moving average of the weights.
    """
    on_cpu = mesh.devices.flat[0].platform == "cpu"
    init = jax.jit(
        functools.partial(random_state, model, optimizer, seed, image_size, average),
        out_shardings=replicated(mesh),
        # A hundred small draws that run once: on a CPU optimising them takes longer than it saves.
        compiler_options={"xla_backend_optimization_level": 1} if on_cpu else None,
    )
    return init()


def random_state(
    model: nn.Module,
    optimizer: optax.GradientTransformation,
    seed: int,
    image_size: int,
    average: bool,
) -> TrainState:
    """The state of `create_state` as a function to be traced, for instance by `jax.eval_shape`."""
    images = jnp.zeros((2, image_size, image_size, 3), jnp.uint8)
    # Training mode, because GoogLeNet's auxiliary heads exist only there.
    keys = {"params": step_key(seed, 0, 0), "dropout": step_key(seed, 1, 0)}
    variables = model.init(keys, images, train=True)
    params, stats = variables["params"], variables.get("batch_stats", {})
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        params=params,
        batch_stats=stats,
        opt_state=optimizer.init(params),
        average={"params": params, "batch_stats": stats} if average else None,
        metrics=Metrics.empty(),
    )


def abstract_variables(model: nn.Module, mesh: Mesh, *, image_size: int) -> Tree:
    """Returns the shapes of {'params', 'batch_stats'}, replicated over the mesh, for a restore.

    Args:
      model: a `Classifier`.
      mesh: from `make_mesh`.
      image_size: side of the model's square input, pixels.
    """

    def init() -> Tree:
        return random_state(model, optax.identity(), 0, image_size, average=False).variables()

    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=replicated(mesh)),
        jax.eval_shape(init),
    )
