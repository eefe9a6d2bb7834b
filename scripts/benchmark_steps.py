"""Training and inference steps of our models, and of the same models in PyTorch.

Both sides see the same uint8 images, in batches of one size, and do everything from there on:
scaling, normalisation, forward pass, and in training cross-entropy, backward pass and Adam with L2.
"""

import dataclasses
import functools
import time
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax.sharding import Mesh

from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import SIZES
from jaxbusi.optim import adam_l2, staircase
from jaxbusi.state import TrainState, create_state, make_mesh, random_state
from jaxbusi.steps import eval_step, train_step
from scripts.workers import Made

SIDE = 224  # pixels
MODELS = {
    "ResNet18": Classifier(("resnet18",), vit=SIZES["B16"], hidden=()),
    "ViT-B/16": Classifier(("vit",), vit=SIZES["B16"], hidden=()),
    "fusion": Classifier(("resnet18", "vit"), vit=SIZES["B16"]),
}
_RATE, _L2 = 1e-3, 1e-5  # the paper's


def state_of(model: Classifier, *, side: int = SIDE, mesh: Mesh | None = None) -> TrainState:
    """Returns a state with random weights, on one device where no mesh is given.

    Args:
      model: the classifier.
      side: of its images, pixels.
      mesh: the devices.
    """
    mesh = mesh or make_mesh(jax.devices()[:1])
    return create_state(model, _optimizer(), mesh, seed=0, image_size=side, average=False)


def _optimizer() -> optax.GradientTransformation:
    return adam_l2(staircase(_RATE, decay_steps=1000, factor=0.1), l2=_L2)


def train_program(model: Classifier) -> jax.stages.Wrapped:
    """Returns the training step of state and batch, to compile; it takes the state's buffers."""
    step = functools.partial(train_step, model=model, optimizer=_optimizer(), seed=0)
    return jax.jit(step, donate_argnums=0)


def ours(
    *, model: str, batch: int, train: bool, dtype: str = "float32", remat: bool = False
) -> Made:
    """Makes one of `MODELS` and a step of the program's own.

    Returns:
      The step, and its floating point operations and compiled memory in bytes.
    """
    classifier = dataclasses.replace(MODELS[model], dtype=jnp.dtype(dtype), remat=remat)
    state = state_of(classifier)
    images, labels = example(batch)
    data = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
    if train:
        compiled = train_program(classifier).lower(state, data).compile()

        def work() -> None:
            nonlocal state
            state, report = compiled(state, data)
            jax.block_until_ready((state, report))

    else:
        data |= {"mask": jnp.ones(batch, bool)}
        variables, judged = state.variables(), jnp.ones(3, bool)
        del state  # the optimizer's moments
        infer = jax.jit(functools.partial(eval_step, model=classifier))
        compiled = infer.lower(variables, data, judged).compile()

        def work() -> None:
            jax.block_until_ready(compiled(variables, data, judged))

    return work, {"flops": _flops(compiled), "memory": _memory(compiled)}


def plan(*, model: str, batch: int, dtype: str = "float32", remat: bool = False) -> Made:
    """Compiles a training step and does not run it.

    Returns:
      Work that does nothing; the seconds that tracing and compiling took, and the program's memory
      in bytes.
    """
    classifier = dataclasses.replace(MODELS[model], dtype=jnp.dtype(dtype), remat=remat)
    state = jax.eval_shape(
        lambda: random_state(classifier, _optimizer(), seed=0, image_size=SIDE, average=False)
    )
    data = jax.eval_shape(lambda: dict(zip(("image", "label"), example(batch), strict=True)))
    begun = time.perf_counter()
    compiled = train_program(classifier).lower(state, data).compile()
    return (lambda: None), {"seconds": time.perf_counter() - begun, "memory": _memory(compiled)}


def _memory(compiled: jax.stages.Compiled) -> int:
    """Bytes that a program holds at most, what it is given and returns included."""
    analysis: Any = compiled.memory_analysis()
    return int(
        analysis.argument_size_in_bytes
        + analysis.output_size_in_bytes
        - analysis.alias_size_in_bytes
        + analysis.temp_size_in_bytes
    )


def _flops(compiled: jax.stages.Compiled) -> float:
    analysis: Any = compiled.cost_analysis()
    return float(analysis["flops"])


def in_torch(
    *, model: str, batch: int, train: bool, device: str, compiled: bool, dtype: str = "float32"
) -> Made:
    """Makes the same model in PyTorch and its step.

    Args:
      model: one of `MODELS`.
      batch: images a step.
      train: whether it is a training step.
      device: `cpu` or `cuda`.
      compiled: through `torch.compile`.
      dtype: `float32`, or `bfloat16` under autocast, as users would.
    """
    import torch

    from tests.reference.fusion import Fusion

    classifier = MODELS[model]
    widths = {"resnet18": 512, "vit": 768}
    joined = sum(widths[name] for name in classifier.branches)
    torch.manual_seed(0)
    heads = (joined, *classifier.hidden, classifier.num_classes)
    module: Any = Fusion(classifier, heads, SIDE).to(device).train(train)
    optimizer = torch.optim.Adam(module.parameters(), lr=_RATE, weight_decay=_L2)
    images, labels = (torch.from_numpy(array).to(device) for array in example(batch))
    forward = torch.compile(module) if compiled else module
    narrow = dtype == "bfloat16"
    cast = functools.partial(torch.autocast, device, dtype=torch.bfloat16, enabled=narrow)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def train_once() -> None:
        with cast():
            logits, _ = forward(images)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels.long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        wait()

    def infer() -> None:
        with torch.no_grad(), cast():
            torch.softmax(forward(images)[0].float(), 1)
        wait()

    return (train_once if train else infer), {}


def example(batch: int, *, side: int = SIDE) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[B, side, side, 3] and labels int32[B]; speed does not depend on content."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, side, side, 3), np.uint8)
    return images, (np.arange(batch) % 3).astype(np.int32)


def machine(dtype: str = "float32", sizes: Sequence[int] = (1024, 2048)) -> Made:
    """Says what JAX runs on, and the most operations a second of a plain matrix product there."""
    best = 0.0
    multiply = jax.jit(jnp.matmul)
    for size in sizes:
        a = jnp.ones((size, size), dtype)
        multiply(a, a).block_until_ready()
        for _ in range(7):
            start = time.perf_counter()
            multiply(a, a).block_until_ready()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    device = jax.devices()[0]
    facts = {"device": device.device_kind, "jax": jax.__version__, "peak": best}
    return (lambda: None), facts
