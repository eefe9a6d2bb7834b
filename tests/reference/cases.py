"""The models compared with PyTorch: settings, seeded weights, images, labels. NumPy only."""

import dataclasses
import re
import zlib

import numpy as np

from jaxbusi.models.fusion import Classifier
from jaxbusi.models.vit import Pooling, ViTSize
from jaxbusi.weights.mapping import Converted, Entry, convert, linear_entries
from jaxbusi.weights.timm import vit_entries
from jaxbusi.weights.torchvision import googlenet_entries, resnet18_entries
from tests.reference import shapes

State = dict[str, np.ndarray]
AUXILIARY_WEIGHT = 0.3


@dataclasses.dataclass(frozen=True)
class Case:
    """One model in one mode.

    Attributes:
      name: of the recorded file.
      classifier: the model; its vit is a `ViTSize`, its dropouts are 0.
      train: the mode.
      double: compare the gradients in float64, see tests/test_parity.py.
      image: side of the images in pixels.
      batch: number of images.
    """

    name: str
    classifier: Classifier
    train: bool = False
    double: bool = False
    image: int = 64
    batch: int = 4

    def images(self) -> np.ndarray:
        """uint8[batch, image, image, 3]: coarse structure under noise, so that no layer starves."""
        rng = _rng(self.name, "images")
        coarse = rng.uniform(0, 200, (self.batch, 5, 5, 3))
        steps = -(-self.image // 5)
        smooth = coarse.repeat(steps, 1).repeat(steps, 2)[:, : self.image, : self.image]
        return (smooth + rng.uniform(0, 55, smooth.shape)).astype(np.uint8)

    def labels(self) -> np.ndarray:
        """int64[batch]."""
        return np.arange(self.batch) % self.classifier.num_classes

    def head_widths(self) -> tuple[int, ...]:
        """Features that enter the head, its hidden layers, the classes."""
        vit = self.classifier.vit
        assert isinstance(vit, ViTSize)
        widths = {"resnet18": 512, "googlenet": 1024, "vit": vit.width}
        if self.classifier.pooling == "both":
            widths["vit"] *= 2
        joined = sum(widths[name] for name in self.classifier.branches)
        return (joined, *self.classifier.hidden, self.classifier.num_classes)

    def state(self) -> State:
        """Seeded weights under the reference module's names."""
        model = self.classifier
        parts = {"head": shapes.head_shapes(self.head_widths())}
        for name in model.branches:
            if name == "resnet18":
                parts[name] = shapes.resnet18_shapes()
            elif name == "googlenet":
                parts[name] = shapes.googlenet_shapes(model.num_classes)
            else:
                assert isinstance(model.vit, ViTSize)
                parts[name] = shapes.vit_shapes(model.vit, self.image)
        named = {f"{part}.{name}": shape for part in parts for name, shape in parts[part].items()}
        seed = self.name.removesuffix("_train").removesuffix("_eval")
        return {name: _values(name, shape, seed) for name, shape in named.items()}

    def entries(self) -> list[Entry]:
        """The whole model's name map, put together from the branches' and the head's."""
        model = self.classifier
        joined: list[Entry] = []
        for name in model.branches:
            if name == "resnet18":
                entries = resnet18_entries()
            elif name == "googlenet":
                entries = googlenet_entries(auxiliary=True)
            else:
                assert isinstance(model.vit, ViTSize)
                entries = vit_entries(
                    depth=model.vit.depth,
                    class_token=model.vit.class_token,
                    layer_scale=model.vit.layer_scale,
                )
            joined += [_prefixed(entry, name) for entry in entries]
        targets = [f"hidden_{i}" for i in range(len(model.hidden))] + ["logits"]
        for i, target in enumerate(targets):
            joined += linear_entries(("head", target), f"head.{2 * i}")
        return joined

    def tree(self, state: State, collection: str) -> dict:
        """Weights or gradients (`params`) or running statistics (`batch_stats`) as in Flax."""
        wanted = [entry for entry in self.entries() if entry.target[0] == collection]
        others = [s for e in self.entries() if e.target[0] != collection for s in e.sources]
        drop = "|".join(map(re.escape, others)) + r"|.*\.num_batches_tracked"
        converted: Converted = convert(wanted, state, drop=drop, origin="the reference")
        return converted.variables.get(collection, {})


def _prefixed(entry: Entry, branch: str) -> Entry:
    collection, *path = entry.target
    sources = tuple(f"{branch}.{source}" for source in entry.sources)
    return Entry((collection, branch, *path), sources, entry.layout)


def _rng(*names: str) -> np.random.Generator:
    return np.random.default_rng([zlib.crc32(name.encode()) for name in names])


def _values(name: str, shape: tuple[int, ...], seed: str) -> np.ndarray:
    """Nothing is left at a value (0 or 1) that would hide a factor or a term that is missing."""
    rng = _rng(seed, name)
    if name.endswith("running_var"):
        values = rng.uniform(1.0, 2.0, shape)
    elif name.endswith(("running_mean", ".bias")):
        values = rng.normal(0, 0.1, shape)
    elif name.endswith(("cls_token", "pos_embed")):
        values = rng.normal(0, 0.5, shape)
    elif len(shape) == 1:  # scales of normalisations and of LayerScale
        values = rng.uniform(0.5, 1.5, shape)
    else:
        gain = 2.0 if len(shape) == 4 else 1.0
        values = rng.normal(0, (gain / np.prod(shape[1:])) ** 0.5, shape)
    if name.startswith(("vit.patch_embed", "vit.pos_embed", "vit.cls_token")):
        values = values * 0.01  # tokens so small that the epsilon of the first norm is felt
    return values.astype(np.float32)


_PLAIN = ViTSize(patch=16, width=32, depth=2, heads=4, mlp=128)
_TOKEN = dataclasses.replace(_PLAIN, class_token=True)
_DINO = dataclasses.replace(_TOKEN, patch=14, layer_scale=True)
_B16_LAYER = ViTSize(patch=16, width=768, depth=1, heads=12, mlp=3072)


def _vit(size: ViTSize, pooling: Pooling = "mean") -> Classifier:
    return Classifier(("vit",), vit=size, pooling=pooling, hidden=())


_RESNET18 = Classifier(("resnet18",), vit=_PLAIN, hidden=())
_GOOGLENET = Classifier(("googlenet",), vit=_PLAIN, hidden=(), auxiliary_dropout=0.0)
_HALF = (0.5, 0.5, 0.5)
_FUSION = Classifier(("resnet18", "vit"), vit=_PLAIN, normalization=(("vit", _HALF, _HALF),))

CASES = (
    Case("resnet18_eval", _RESNET18, double=True),
    Case("resnet18_train", _RESNET18, train=True, double=True),
    Case("googlenet_eval", _GOOGLENET, double=True, image=90),
    Case("googlenet_train", _GOOGLENET, train=True, double=True, image=90),
    Case("vit_mean", _vit(_PLAIN)),
    Case("vit_mean_token", _vit(_TOKEN)),
    Case("vit_class", _vit(_TOKEN, "class")),
    Case("vit_both_dino", _vit(_DINO, "both"), image=70),
    Case("vit_b16_layer", _vit(_B16_LAYER)),
    Case("fusion_eval", _FUSION),
    Case("fusion_train", _FUSION, train=True),
)
"""The transformer has no mode: one case of it stands for both."""
