"""The command that turns a public checkpoint into a file for a branch.

    python -m jaxbusi.convert resnet18-f37072fd.pth weights/resnet18.safetensors

Training takes public checkpoints as they are, too. A converted file is one that opens at once, says
where it comes from, and may carry statistics that the public one leaves open.
"""

import dataclasses
from pathlib import Path

from jaxbusi.errors import Parser, UserError, fail
from jaxbusi.models.fusion import Channels
from jaxbusi.weights.load import BranchWeights, read_weights, write_weights
from jaxbusi.weights.recognise import check_statistics


def main() -> None:
    """Runs the command."""
    parser = Parser(
        prog="python -m jaxbusi.convert",
        description="Convert a public checkpoint for a branch: torchvision's ResNet18 and "
        "GoogLeNet, timm's ViT and DeiT, Hugging Face's ViT and DINOv2 (.pth or safetensors), "
        "Google's ViT (.npz). What it is, is told by its content. Nothing in it is executed.",
    )
    parser.add_argument("source", type=Path, metavar="SOURCE", help="the public file")
    parser.add_argument("dest", type=Path, metavar="DEST", help="the file to write (safetensors)")
    for name in ("mean", "std"):
        parser.add_argument(
            f"--{name}",
            type=_channels,
            metavar="R,G,B",
            help=f"{name} of the channels of its images on the scale 0 to 1, instead of the "
            "format's own",
        )
    arguments = parser.parse_args()
    try:
        both = arguments.source.exists() and arguments.dest.exists()
        if both and arguments.dest.samefile(arguments.source):
            raise UserError(f"{arguments.dest} is SOURCE itself; name another DEST")
        weights = _stated(read_weights(arguments.source), arguments.mean, arguments.std)
        write_weights(arguments.dest, weights)
    except UserError as error:
        fail(str(error))
    print(_summary(weights, arguments.dest))


def _channels(text: str) -> Channels:
    red, green, blue = (float(part) for part in text.split(","))
    return red, green, blue


def _stated(weights: BranchWeights, mean: Channels | None, std: Channels | None) -> BranchWeights:
    if mean is None and std is None:
        return weights
    if mean is None or std is None:
        raise UserError("--mean and --std belong together; give both")
    check_statistics(mean, std, "--mean, --std:")
    origin = dataclasses.replace(weights.origin, mean=mean, std=std, stated="by hand")
    return dataclasses.replace(weights, origin=origin)


def _summary(weights: BranchWeights, dest: Path) -> str:
    origin = weights.origin
    lines = (
        f"{origin.format}, sha256 {origin.sha256}",
        f"images: {origin.crop} pixels, {origin.interpolation}, mean {origin.mean}, std "
        f"{origin.std} ({origin.stated})",
        f"dropped: {', '.join(origin.dropped) or 'nothing'}",
        f"ready: --config.weights.{origin.branch}={dest}",
    )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
