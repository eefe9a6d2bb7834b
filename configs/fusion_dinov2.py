"""ResNet18 beside DINOv2's small transformer, which stays frozen.

    python -m jaxbusi.main --config configs/fusion_dinov2.py --workdir runs/fusion_dinov2 \
        --config.data.root=Dataset_BUSI_with_GT --config.weights.vit=dinov2-small.safetensors

The weights are `model.safetensors` of facebook/dinov2-small. `--config.weights.resnet18=FILE`
starts the other branch from torchvision's ImageNet weights; without it, it learns from scratch.

Measured on BUSI at 112 pixels, seed 0, the ResNet from random weights: accuracy 75.6 %
(68.9–82.1) on 156 images, 62 minutes on two shared CPU cores; see the README.
"""

from ml_collections import ConfigDict

from configs import fusion


def get_config() -> ConfigDict:
    """Returns the settings of `fusion.py` with a frozen ViT-S/14 and gentler crops."""
    config = fusion.get_config()
    config.model.vit = "S14"
    config.model.pooling = "both"  # class token and mean of the patches: what DINOv2 is probed with
    config.weights.vit = "dinov2-small.safetensors"
    config.freeze.vit = -1.0
    config.data.views = 2
    config.data.augment.scale = (0.5, 1.0)  # the paper's 0.08 often leaves the lesion out
    return config
