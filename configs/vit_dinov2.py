"""DINOv2's small transformer, frozen, under a linear layer: minutes on a CPU.

    python -m jaxbusi.main --config configs/vit_dinov2.py --workdir runs/vit_dinov2 \
        --config.data.root=Dataset_BUSI_with_GT --config.weights.vit=dinov2-small.safetensors

The weights are `model.safetensors` of facebook/dinov2-small. The features of each view are computed
once and kept, so that thirty epochs take little longer than that one pass.

Measured on BUSI, seed 0: accuracy 78.2 % (71.8–84.0) on 156 images, 82.7 % with the mean of five
views, some 25 minutes on two shared CPU cores.
"""

from ml_collections import ConfigDict

from configs import fusion_dinov2


def get_config() -> ConfigDict:
    """Returns the settings of `fusion_dinov2.py` with the transformer alone."""
    config = fusion_dinov2.get_config()
    config.model.branches = ("vit",)
    config.model.hidden = ()
    return config
