"""A case run through PyTorch."""

import numpy as np
import torch

from tests.reference.cases import AUXILIARY_WEIGHT, Case
from tests.reference.fusion import Fusion
from tests.reference.results import Result, flatten


def run(case: Case, *, double: bool, gradients: bool = True) -> Result:
    """Forward and backward pass on the CPU.

    Args:
      case: what to run.
      double: in float64 instead of float32.
      gradients: without them the backward pass is not run.
    """
    module = Fusion(case.classifier, case.head_widths(), case.image)
    state = {name: torch.from_numpy(array) for name, array in case.state().items()}
    module.load_state_dict(state, strict=True)
    module.train(case.train)
    module.to(torch.float64 if double else torch.float32)
    logits, auxiliary = module(torch.from_numpy(case.images()))
    labels = torch.from_numpy(case.labels())
    loss = torch.nn.functional.cross_entropy(logits, labels)
    for other in auxiliary:
        loss = loss + AUXILIARY_WEIGHT * torch.nn.functional.cross_entropy(other, labels)
    statistics = {name: buffer.numpy() for name, buffer in module.named_buffers()}
    grads = {}
    if gradients:
        loss.backward()
        for name, p in module.named_parameters():
            # Auxiliary heads have no part in evaluation.
            grads[name] = (torch.zeros_like(p) if p.grad is None else p.grad).numpy(force=True)
    return Result(
        logits.numpy(force=True),
        np.asarray([x.numpy(force=True) for x in auxiliary]).reshape(-1, *logits.shape),
        flatten(case.tree(grads, "params")) if gradients else {},
        flatten(case.tree(statistics, "batch_stats")),
    )
