"""The classifier: parallel branches, concatenated features, an MLP head (paper, section 1.2)."""

import dataclasses
import difflib
from collections.abc import Iterable, Mapping

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp
from flax.typing import Dtype

from jaxbusi.data.records import CLASSES
from jaxbusi.errors import UserError
from jaxbusi.models.googlenet import AUXILIARY_DROPOUT, GoogLeNet
from jaxbusi.models.initializers import torch_bias, torch_kernel
from jaxbusi.models.precision import full
from jaxbusi.models.resnet import ResNet18
from jaxbusi.models.vit import SIZES, Pooling, ViT, ViTSize, check_pooling

BRANCHES: tuple[str, ...] = ("resnet18", "vit", "googlenet")
"""Names of the branches; also the keys of their parameters."""

Channels = tuple[float, float, float]
"""One value each for red, green and blue, on the scale 0 … 1."""

IMAGENET_MEAN: Channels = (0.485, 0.456, 0.406)
IMAGENET_STD: Channels = (0.229, 0.224, 0.225)


@flax.struct.dataclass
class Output:
    """What the classifier returns.

    Attributes:
      logits: f32[B, classes].
      auxiliary: f32[B, classes] of each of GoogLeNet's auxiliary heads, in training; else empty.
      features: f32[B, d] of each branch, as they enter the head; look them up by name, since JAX
        sorts the keys.
    """

    logits: jax.Array
    auxiliary: tuple[jax.Array, ...]
    features: dict[str, jax.Array]


class Head(nn.Module):
    """Linear layers with ReLU between them; "three-layer fully connected network" (paper).

    Attributes:
      hidden: widths of the hidden layers; empty for a single linear layer.
      num_classes: number of logits.
      dropout: rate on the input of every layer, in training.
      dtype: compute type of the hidden layers; the logits are computed in float32.
    """

    hidden: tuple[int, ...]
    num_classes: int
    dropout: float = 0.0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        """[B, d] to logits f32[B, num_classes]."""
        for layer, features in enumerate(self.hidden):
            x = self._drop(x, train)
            x = nn.relu(self._linear(features, x.shape[-1], self.dtype, f"hidden_{layer}")(x))
        x = self._drop(x, train)
        return self._linear(self.num_classes, x.shape[-1], full(self.dtype), "logits")(x)

    def _drop(self, x: jax.Array, train: bool) -> jax.Array:
        return nn.Dropout(self.dropout, deterministic=not train)(x)

    def _linear(self, features: int, fan_in: int, dtype: Dtype, name: str) -> nn.Dense:
        return nn.Dense(
            features,
            dtype=dtype,
            kernel_init=torch_kernel,
            bias_init=torch_bias(fan_in),
            name=name,
        )


class Classifier(nn.Module):
    """Any of the branches, alone or together, in front of one head.

    The paper's model is `Classifier(('resnet18', 'vit'))`: 512 + 768 features → 512 → 128 → 3.
    Parameters live under the branches' names and `head`.

    Attributes:
      branches: any of `BRANCHES`, once each; their features are concatenated in this order.
      vit: name of a size in `SIZES`, or a size of your own.
      pooling: of the transformer's tokens, see `jaxbusi.models.vit.Pooling`.
      class_token: gives the transformer a class token or takes it away; None keeps the size's own.
      remat: compute inside the transformer's layers twice instead of keeping what their gradients
        need.
      hidden: widths of the head's hidden layers; `()` for one linear layer.
      dropout: rate on the input of every layer of the head, in training.
      auxiliary_dropout: rate inside GoogLeNet's auxiliary heads, in training.
      normalization: (branch, mean, std) for branches whose checkpoint was trained with other
        statistics than ImageNet's, on the scale 0 … 1.
      frozen: branches that stay as they are in training too: no gradient passes into them, and
        their batch normalisation applies its running statistics and leaves them alone.
      num_classes: number of logits.
      dtype: compute type; parameters, batch statistics and logits are float32.

    Raises:
      UserError: on construction, for unknown, repeated or missing branches, an unknown size, or a
        pooling that does not fit it.
    """

    branches: tuple[str, ...] = ("resnet18", "vit")
    vit: str | ViTSize = "B16"
    pooling: Pooling = "mean"
    class_token: bool | None = None
    remat: bool = False
    hidden: tuple[int, ...] = (512, 128)
    dropout: float = 0.0
    auxiliary_dropout: float = AUXILIARY_DROPOUT
    normalization: tuple[tuple[str, Channels, Channels], ...] = ()
    frozen: tuple[str, ...] = ()
    num_classes: int = len(CLASSES)
    dtype: Dtype = jnp.float32

    def __post_init__(self) -> None:
        _check_branches(self.branches)
        for branch, _, _ in self.normalization:
            _check_known(branch, BRANCHES, "the model's normalization")
        if "vit" in self.branches:
            check_pooling(self.vit_size(), self.pooling)
        super().__post_init__()

    @nn.compact
    def __call__(
        self, images: jax.Array, *, train: bool, given: Mapping[str, jax.Array] | None = None
    ) -> Output:
        """Classifies images.

        Args:
          images: [B, H, W, 3], RGB on the scale 0 … 255, uint8 or floating.
          given: features f32[B, d] of branches that need not look at the images again.
          train: whether batch statistics, dropout and auxiliary heads are in use. Dropout needs a
            random stream named `dropout`; batch statistics a mutable collection `batch_stats`.

        Returns:
          logits over `jaxbusi.data.records.CLASSES`, auxiliary logits and the branches' features.
        """
        scaled = images.astype(full(self.dtype)) / 255.0
        auxiliary: tuple[jax.Array, ...] = ()
        features: dict[str, jax.Array] = {}
        for name in self.branches:
            if given and name in given:
                features[name] = given[name]
                continue
            inputs = self._normalize(scaled, name).astype(self.dtype)
            learns = train and name not in self.frozen
            if name == "resnet18":
                feature = ResNet18(self.dtype, name=name)(inputs, train=learns)
            elif name == "vit":
                size = self.vit_size()
                feature = ViT(size, self.pooling, self.dtype, self.remat, name=name)(inputs)
            else:
                feature, auxiliary = GoogLeNet(
                    self.num_classes, self.auxiliary_dropout, self.dtype, name=name
                )(inputs, train=learns)
            if name in self.frozen:
                feature = jax.lax.stop_gradient(feature)
            features[name] = feature.astype(full(self.dtype))
        head = Head(self.hidden, self.num_classes, self.dropout, self.dtype, name="head")
        joined = jnp.concatenate(list(features.values()), axis=-1)
        return Output(head(joined, train=train), auxiliary, features)

    def statistics(self, branch: str) -> tuple[Channels, Channels]:
        """Mean and deviation that a branch's images are normalised by, on the scale 0 … 1."""
        own = {name: (mean, std) for name, mean, std in self.normalization}
        return own.get(branch, (IMAGENET_MEAN, IMAGENET_STD))

    def _normalize(self, scaled: jax.Array, branch: str) -> jax.Array:
        """f32[B, H, W, 3] on 0 … 1, less the branch's mean, over its deviation."""
        mean, std = self.statistics(branch)
        shape = (1, 1, 1, 3)
        mean_, std_ = (jnp.asarray(x, scaled.dtype).reshape(shape) for x in (mean, std))
        return (scaled - mean_) / std_

    def vit_size(self) -> ViTSize:
        """The transformer's geometry, with the class token that the model gives it."""
        size = vit_size(self.vit) if isinstance(self.vit, str) else self.vit
        if self.class_token is None:
            return size
        return dataclasses.replace(size, class_token=self.class_token)


def vit_size(name: str) -> ViTSize:
    """The size named by `config.model.vit`.

    Raises:
      UserError: unknown name; the message lists the known ones and the nearest.
    """
    _check_known(name, SIZES, "config.model.vit")
    return SIZES[name]


def model_name(branches: Iterable[str], vit: str) -> str:
    """A model in a few words, 'ResNet18 + ViT-B/16', from its branches and `config.model.vit`."""
    names = {
        "resnet18": "ResNet18",
        "googlenet": "GoogLeNet",
        "vit": f"ViT-{vit.rstrip('0123456789')}/{vit.lstrip('BSTi')}",
    }
    return " + ".join(names[branch] for branch in branches)


def _check_branches(branches: tuple[str, ...]) -> None:
    if not branches:
        raise UserError(f"config.model.branches is empty: name at least one of {list(BRANCHES)}")
    for name in branches:
        _check_known(name, BRANCHES, "config.model.branches")
    if len(set(branches)) < len(branches):
        raise UserError(f"config.model.branches={list(branches)} names a branch twice")


def _check_known(name: str, known: Iterable[str], key: str) -> None:
    names = list(known)
    if name in names:
        return
    lower = {candidate.lower(): candidate for candidate in names}
    nearest = difflib.get_close_matches(name.lower(), lower, n=1, cutoff=0.5)
    hint = f"; did you mean {lower[nearest[0]]!r}?" if nearest else ""
    raise UserError(f"{key} has no {name!r}: known are {names}{hint}")
