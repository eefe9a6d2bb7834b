"""A file of weights, public or converted, to the variables of a branch."""

import dataclasses
import json
import logging
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from flax import traverse_util
from safetensors import numpy as safetensors_numpy

from jaxbusi import atomic
from jaxbusi.errors import UserError
from jaxbusi.models.fusion import Channels, vit_size
from jaxbusi.models.vit import ViTSize
from jaxbusi.settings import build
from jaxbusi.weights.files import read_tensors
from jaxbusi.weights.mapping import Tree
from jaxbusi.weights.positions import resize_positions
from jaxbusi.weights.recognise import (
    check_finite,
    check_positions,
    check_statistics,
    recognise,
)

_KEY = "jaxbusi"
"""Of the metadata of a converted file."""


@dataclasses.dataclass(frozen=True)
class Origin:
    """Where a branch's weights come from, and what they ask of the model.

    Attributes:
      format: the public checkpoint in words.
      branch: where it belongs.
      sha256: hexadecimal digest of the public file.
      mean: of the channels of its images, on the scale 0 … 1.
      std: of the channels of its images, on the scale 0 … 1.
      interpolation: of the resizing of its images.
      stated: where the three come from, see `recognise.Statistics`.
      crop: side of its images in pixels, as the grid of positions has it; 224 where it has none.
      class_token: whether the transformer has one.
      layer_scale: whether the transformer has LayerScale factors.
      dropped: names that have no place in the branch, such as the head of 1000 classes.
    """

    format: str
    branch: str
    sha256: str
    mean: Channels
    std: Channels
    interpolation: str
    stated: str
    crop: int
    class_token: bool
    layer_scale: bool
    dropped: tuple[str, ...]

    @classmethod
    def from_json(cls, content: dict[str, Any]) -> "Origin":
        """Reads what `dataclasses.asdict` and JSON made of one.

        Raises:
          UserError: it is something else.
        """
        return build(cls, content, "origin")


@dataclasses.dataclass(frozen=True)
class BranchWeights:
    """The weights of a branch: {'params': …, 'batch_stats': …}, float32, and their origin."""

    variables: Tree
    origin: Origin


def read_weights(path: str | Path) -> BranchWeights:
    """Reads a public checkpoint or a converted file, with the position grid that it has.

    Raises:
      UserError: it cannot be read, is none of the known kinds, or holds numbers or statistics of
        images that make no sense.
    """
    path = Path(path)
    tensors = read_tensors(path)
    if _KEY in tensors.metadata:
        try:
            origin = Origin.from_json(json.loads(tensors.metadata[_KEY]))
        except (ValueError, RecursionError, UserError) as error:
            raise UserError(
                f"{path} was converted by another version; convert the public file again"
            ) from error
        check_finite(path, tensors.arrays)
        check_statistics(origin.mean, origin.std, f"{path}:")
        return BranchWeights(_nested(tensors.arrays, path), origin)
    found = recognise(path, tensors)
    variables = found.converted.variables
    params = variables["params"]
    crop, class_token = 224, "class_token" in params
    if found.branch == "vit":
        patches = params["position_embedding"].shape[1] - int(class_token)
        crop = round(patches**0.5) * params["patch_embedding"]["kernel"].shape[0]
    origin = Origin(
        format=found.format,
        branch=found.branch,
        sha256=tensors.sha256,
        **dataclasses.asdict(found.statistics),
        crop=crop,
        class_token=class_token,
        layer_scale="ls1" in params.get("layer_0", {}),
        dropped=found.converted.dropped,
    )
    return BranchWeights(variables, origin)


def _nested(arrays: Mapping[str, np.ndarray], path: Path) -> Tree:
    """The arrays of a converted file as variables.

    Raises:
      UserError: they are not float32, have names that no branch has, or positions of no grid.
    """
    tree: Tree = {"params": {}}
    try:
        for name, array in arrays.items():
            *folders, last = name.split("/")
            if array.dtype != np.float32 or folders[:1] not in (["params"], ["batch_stats"]):
                raise UserError(f"{name} {array.dtype} is not of a branch")
            node = tree
            for folder in folders:
                node = node.setdefault(folder, {})
            if not isinstance(node, dict) or last in node:
                raise UserError(f"{name} is an array and holds others")
            node[last] = array
        check_positions(tree)
    except (UserError, AttributeError) as error:
        raise UserError(f"{path} is no converted file ({error}); convert the public one") from error
    return tree


def write_weights(path: Path, weights: BranchWeights) -> None:
    """Writes a converted file: safetensors under our names, the origin in its metadata.

    Raises:
      UserError: it cannot be written, or is a folder or a device.
    """
    if path.exists() and not path.is_file():
        raise UserError(f"{path} is no regular file; name the file to write")
    arrays = traverse_util.flatten_dict(weights.variables, sep="/")
    metadata = {_KEY: json.dumps(dataclasses.asdict(weights.origin))}
    atomic.write_bytes(path, safetensors_numpy.save(arrays, metadata))


def load_branch(path: str, branch: str, *, vit: str, image_size: int) -> BranchWeights:
    """Reads the weights of one branch of a model, with positions for its image size.

    Args:
      path: of a public checkpoint or a converted file.
      branch: the branch they are for.
      vit: name of the transformer's size, `config.model.vit`.
      image_size: side of the model's square input, pixels.

    Raises:
      UserError: the file cannot be read, is for another branch or another size of transformer.
    """
    key = f"config.weights.{branch}"
    if not Path(path).exists():
        raise UserError(f"{key}={path} does not exist; name a file of weights, or '' for none")
    weights = read_weights(path)
    origin = weights.origin
    if origin.branch != branch:
        raise UserError(
            f"{key}={path} holds {origin.format}; give it as config.weights.{origin.branch}"
        )
    if branch == "vit":
        size = vit_size(vit)
        _check_geometry(weights.variables["params"], size, f"{key}={path}", vit)
        weights = _at_size(weights, image_size // size.patch)
    how = "assumed" if origin.stated == "assumed" else f"stated {origin.stated}"
    logging.log(
        logging.WARNING if origin.stated == "assumed" else logging.INFO,
        "%s: %s from %s; dropped %s; normalised by mean %s and std %s, %s; its images were resized "
        "%s, here all are as config.data.augment says%s",
        branch,
        origin.format,
        path,
        ", ".join(origin.dropped) or "nothing",
        origin.mean,
        origin.std,
        how,
        origin.interpolation,
        "; python -m jaxbusi.convert --mean --std states others" if how == "assumed" else "",
    )
    return weights


def _at_size(weights: BranchWeights, grid: int) -> BranchWeights:
    params = weights.variables["params"]
    positions = resize_positions(
        params["position_embedding"], grid, class_token=weights.origin.class_token
    )
    resized = {**params, "position_embedding": positions}
    return dataclasses.replace(weights, variables={**weights.variables, "params": resized})


def _check_geometry(params: Tree, size: ViTSize, what: str, name: str) -> None:
    try:
        kernel = params["patch_embedding"]["kernel"]
        found = {
            "patch": kernel.shape[0],
            "width": kernel.shape[-1],
            "depth": sum(key.startswith("layer_") for key in params),
            "mlp": params["layer_0"]["fc1"]["kernel"].shape[-1],
        }
        found_positions = params["position_embedding"].shape[2]
    except (LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{what} lacks parts of a transformer; fetch or convert it again"
        ) from error
    wanted = {key: getattr(size, key) for key in found}
    if found != wanted or found_positions != size.width:
        raise UserError(
            f"{what} is a transformer of {_in_words(found)}; config.model.vit={name!r} has "
            f"{_in_words(wanted)}: set the size that belongs to the file"
        )


def _in_words(geometry: dict[str, int]) -> str:
    return ", ".join(f"{key} {value}" for key, value in geometry.items())


def check_same_shapes(ours: Tree, theirs: Tree, *, optional: str, what: str) -> None:
    """Compares a branch of the model with weights for it, name by name.

    Args:
      ours: nested dictionaries of arrays.
      theirs: the same, to be put in their place.
      optional: regular expression; names that it matches in full may be missing from `theirs`.
      what: the weights in words.

    Raises:
      UserError: names every array that only one side has, or that differs in shape.
    """
    mine = {name: np.shape(x) for name, x in traverse_util.flatten_dict(ours, sep="/").items()}
    given = {name: np.shape(x) for name, x in traverse_util.flatten_dict(theirs, sep="/").items()}
    missing = [name for name in mine.keys() - given.keys() if not re.fullmatch(optional, name)]
    wrong = [f"{name} is missing" for name in missing]
    wrong += [f"{name} is left over" for name in given.keys() - mine.keys()]
    wrong += [
        f"{name} is {given[name]} where the model has {mine[name]}"
        for name in mine.keys() & given.keys()
        if mine[name] != given[name]
    ]
    if wrong:
        raise UserError(f"{what} does not fit the model: {'; '.join(sorted(wrong))}")
