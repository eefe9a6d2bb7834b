"""Table 4 with DINOv2's small transformer, frozen, in place of ViT-B/16.

    python -m jaxbusi.study --config configs/table4_dinov2.py --workdir runs/table4_dinov2 \
        --config.data.root=Dataset_BUSI_with_GT --config.weights.vit=dinov2-small.safetensors

The weights are `model.safetensors` of facebook/dinov2-small. The convolutional branches start at
random unless `--config.weights.resnet18=FILE` and `--config.weights.googlenet=FILE` are given.

Measured on BUSI at 112 pixels for 4 epochs and two seeds, on two shared CPU cores in 53 minutes:
see the README.
"""

from ml_collections import ConfigDict

from configs import fusion_dinov2, table4


def get_config() -> ConfigDict:
    """Returns the arms of `table4.py` over the settings of `fusion_dinov2.py`."""
    config = fusion_dinov2.get_config()
    with config.unlocked():
        config.study = table4.get_config().study
    return config
