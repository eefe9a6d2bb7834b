"""The whole classifier in PyTorch: normalisation, branches, concatenation, head."""

import itertools

import torch
from torch import nn

from jaxbusi.models.fusion import IMAGENET_MEAN, IMAGENET_STD, Classifier
from jaxbusi.models.vit import ViTSize
from tests.reference.googlenet import GoogLeNet
from tests.reference.resnet import ResNet18
from tests.reference.vit import VisionTransformer


class Fusion(nn.Module):
    """The same model as `classifier`, for square images of `image` pixels.

    Args:
      classifier: the settings; the vit size must be given as a `ViTSize`.
      widths: features that enter the head, its hidden layers, the classes.
      image: side of the images in pixels.
    """

    def __init__(self, classifier: Classifier, widths: tuple[int, ...], image: int) -> None:
        super().__init__()
        statistics = {name: (mean, std) for name, mean, std in classifier.normalization}
        self.statistics = {
            name: statistics.get(name, (IMAGENET_MEAN, IMAGENET_STD))
            for name in classifier.branches
        }
        for name in classifier.branches:
            if name == "resnet18":
                self.resnet18 = ResNet18()
            elif name == "vit":
                assert isinstance(classifier.vit, ViTSize)
                self.vit = VisionTransformer(classifier.vit, classifier.pooling, image)
            else:
                self.googlenet = GoogLeNet(classifier.num_classes)
        layers: list[nn.Module] = []
        for inputs, outputs in itertools.pairwise(widths):
            layers += [nn.Linear(inputs, outputs), nn.ReLU()]
        self.head = nn.Sequential(*layers[:-1])

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, tuple[torch.Tensor, ...]]:
        """uint8 [B, H, W, 3] to logits and, in training, auxiliary logits."""
        dtype = next(self.head.parameters()).dtype
        scaled = images.permute(0, 3, 1, 2).to(dtype) / 255.0
        features = []
        auxiliary: tuple[torch.Tensor, ...] = ()
        for name, (mean, std) in self.statistics.items():
            center, scale = (scaled.new_tensor(x).reshape(1, 3, 1, 1) for x in (mean, std))
            feature = getattr(self, name)((scaled - center) / scale)
            if name == "googlenet":
                feature, auxiliary = feature
            features.append(feature)
        return self.head(torch.cat(features, 1)), auxiliary
