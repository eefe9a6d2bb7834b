"""Training and inference steps of our models, and of the same models in PyTorch.

Both sides see the same uint8 images, in batches of one size, and do everything from there on:
scaling, normalisation, forward pass, and in training cross-entropy, backward pass and Adam with L2.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import SIZES
from jaxbusi.optim import adam_l2, staircase
from jaxbusi.state import create_state, make_mesh
from jaxbusi.steps import eval_step, train_step

SIDE = 224  # pixels
MODELS = {
    "ResNet18": Classifier(("resnet18",), vit=SIZES["B16"], hidden=()),
    "ViT-B/16": Classifier(("vit",), vit=SIZES["B16"], hidden=()),
    "fusion": Classifier(("resnet18", "vit"), vit=SIZES["B16"]),
}
_RATE, _L2 = 1e-3, 1e-5  # the paper's

Step = Callable[[], object]


@dataclasses.dataclass
class Ours:
    """One of `MODELS` with the program's own steps, compiled.

    Attributes:
      model: the classifier.
      batch: images a step.
    """

    model: Classifier
    batch: int

    def __post_init__(self) -> None:
        mesh = make_mesh(jax.devices()[:1])
        optimizer = adam_l2(staircase(_RATE, decay_steps=1000, factor=0.1), l2=_L2)
        self.state = create_state(
            self.model, optimizer, mesh, seed=0, image_size=SIDE, average=False
        )
        images, labels = example(self.batch)
        self._data = {"image": jnp.asarray(images), "label": jnp.asarray(labels)}
        self._train = jax.jit(
            functools.partial(train_step, model=self.model, optimizer=optimizer, seed=0),
            donate_argnums=0,
        )
        self._infer = jax.jit(functools.partial(eval_step, model=self.model))

    def train(self) -> None:
        """One optimizer step."""
        self.state, report = self._train(self.state, self._data)
        jax.block_until_ready((self.state, report))

    def infer(self) -> None:
        """One forward pass to probabilities."""
        mask = jnp.ones(self.batch, bool)
        jax.block_until_ready(self._infer(self.state.variables(), self._data | {"mask": mask}))

    def memory(self) -> int:
        """Bytes that the compiled training step holds at most, parameters included."""
        analysis: Any = self._train.lower(self.state, self._data).compile().memory_analysis()
        return int(
            analysis.argument_size_in_bytes
            + analysis.output_size_in_bytes
            - analysis.alias_size_in_bytes
            + analysis.temp_size_in_bytes
        )

    def flops(self) -> tuple[float, float]:
        """Floating point operations of a training and of an inference step, as lowered."""
        mask = jnp.ones(self.batch, bool)
        lowered = (
            self._train.lower(self.state, self._data),
            self._infer.lower(self.state.variables(), self._data | {"mask": mask}),
        )
        train, infer = (float(dict(one.cost_analysis() or {})["flops"]) for one in lowered)
        return train, infer


def torch_steps(
    model: Classifier, batch: int, *, device: str, compiled: bool, bfloat16: bool
) -> tuple[Step, Step]:
    """The same model in PyTorch: a training step and an inference step.

    Args:
      model: one of `MODELS`.
      batch: images a step.
      device: `cpu` or `cuda`.
      compiled: through `torch.compile`.
      bfloat16: under autocast, as users would.
    """
    import torch

    from tests.reference.fusion import Fusion

    widths = {"resnet18": 512, "vit": 768}
    joined = sum(widths[name] for name in model.branches)
    torch.manual_seed(0)
    module: Any = Fusion(model, (joined, *model.hidden, model.num_classes), SIDE).to(device)
    optimizer = torch.optim.Adam(module.parameters(), lr=_RATE, weight_decay=_L2)
    images, labels = (torch.from_numpy(array).to(device) for array in example(batch))
    forward = torch.compile(module) if compiled else module
    cast = functools.partial(torch.autocast, device, dtype=torch.bfloat16, enabled=bfloat16)

    def wait() -> None:
        if device == "cuda":
            torch.cuda.synchronize()

    def train() -> None:
        module.train()
        with cast():
            logits, _ = forward(images)
            loss = torch.nn.functional.cross_entropy(logits.float(), labels.long())
        optimizer.zero_grad(set_to_none=True)
        loss.backward()
        optimizer.step()
        wait()

    def infer() -> None:
        module.eval()
        with torch.no_grad(), cast():
            torch.softmax(forward(images)[0].float(), 1)
        wait()

    return train, infer


def example(batch: int) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8[B, 224, 224, 3] and labels int32[B]; how long a step takes knows no content."""
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (batch, SIDE, SIDE, 3), np.uint8)
    return images, (np.arange(batch) % 3).astype(np.int32)


def matmul_peak(dtype: jnp.dtype, sizes: Sequence[int] = (2048, 4096), tries: int = 5) -> float:
    """The most operations a second that a plain matrix product of this machine reaches."""
    import time

    best = 0.0
    multiply = jax.jit(jnp.matmul)
    for size in sizes:
        a = jnp.ones((size, size), dtype)
        multiply(a, a).block_until_ready()
        for _ in range(tries):
            start = time.perf_counter()
            multiply(a, a).block_until_ready()
            best = max(best, 2 * size**3 / (time.perf_counter() - start))
    return best
