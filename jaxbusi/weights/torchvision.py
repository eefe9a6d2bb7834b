"""torchvision's ResNet18 and GoogLeNet state dicts."""

from jaxbusi.models.googlenet import INCEPTIONS
from jaxbusi.models.resnet import BLOCKS, STAGES
from jaxbusi.weights.mapping import (
    Converted,
    Entry,
    State,
    batch_norm_entries,
    convert,
    convolution,
    linear_entries,
)

_COUNTERS = r".*\.num_batches_tracked"
"""BatchNorm's step counters: only torch's `momentum=None` reads them."""


def _kernel(target: tuple[str, ...], source: str) -> Entry:
    return Entry(("params", *target, "kernel"), (f"{source}.weight",), convolution)


def resnet18_entries() -> list[Entry]:
    """Torchvision's `resnet18` without `fc` to `jaxbusi.models.resnet.ResNet18`."""
    entries = [_kernel(("conv1",), "conv1"), *batch_norm_entries(("bn1",), "bn1")]
    width = STAGES[0][0]
    for stage, (features, stride) in enumerate(STAGES, start=1):
        for block in range(BLOCKS):
            target, source = f"layer{stage}_{block}", f"layer{stage}.{block}"
            for i in (1, 2):
                entries.append(_kernel((target, f"conv{i}"), f"{source}.conv{i}"))
                entries += batch_norm_entries((target, f"bn{i}"), f"{source}.bn{i}")
            if block == 0 and (stride != 1 or features != width):
                entries.append(_kernel((target, "downsample_conv"), f"{source}.downsample.0"))
                entries += batch_norm_entries((target, "downsample_bn"), f"{source}.downsample.1")
        width = features
    return entries


def googlenet_entries(*, auxiliary: bool) -> list[Entry]:
    """Torchvision's `googlenet` without `fc` to `jaxbusi.models.googlenet.GoogLeNet`.

    Args:
      auxiliary: with the two auxiliary heads.
    """
    blocks: list[tuple[tuple[str, ...], str]] = [
        ((name,), name) for name in ("conv1", "conv2", "conv3")
    ]
    for name in INCEPTIONS:
        for path in ("branch1", "branch2.0", "branch2.1", "branch3.0", "branch3.1", "branch4.1"):
            blocks.append(((name, path.replace(".", "_")), f"{name}.{path}"))
    heads = ("aux1", "aux2") if auxiliary else ()
    blocks += [((head, "conv"), f"{head}.conv") for head in heads]
    entries = []
    for target, source in blocks:
        entries.append(_kernel((*target, "conv"), f"{source}.conv"))
        entries += batch_norm_entries((*target, "bn"), f"{source}.bn")
    for head in heads:
        for layer in ("fc1", "fc2"):
            entries += linear_entries((head, layer), f"{head}.{layer}")
    return entries


def resnet18_from_torchvision(state: State) -> Converted:
    """Variables of `ResNet18` from torchvision's `resnet18`; the classifier `fc` is dropped.

    Raises:
      UserError: names that are missing or unknown.
    """
    return convert(
        resnet18_entries(), state, drop=rf"fc\..*|{_COUNTERS}", origin="torchvision's ResNet18"
    )


def googlenet_from_torchvision(state: State, *, auxiliary: bool) -> Converted:
    """Variables of `GoogLeNet` from torchvision's `googlenet`; the classifier `fc` is dropped.

    Args:
      state: the checkpoint.
      auxiliary: convert the auxiliary heads, whose last layers have as many outputs as the
        checkpoint has classes; otherwise they are dropped, as in torchvision's own use.

    Raises:
      UserError: names that are missing or unknown.
    """
    heads = "" if auxiliary else r"|aux[12]\..*"
    return convert(
        googlenet_entries(auxiliary=auxiliary),
        state,
        drop=rf"fc\..*{heads}|{_COUNTERS}",
        origin="torchvision's GoogLeNet",
    )
