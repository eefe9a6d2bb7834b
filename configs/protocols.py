"""What a split is worth: the same model under the leaky, the paper's and the clean protocol.

    python -m jaxbusi.study --config configs/protocols.py --workdir runs/protocols \
        --config.data.root=Dataset_BUSI_with_GT --config.weights.vit=dinov2-small.safetensors

The model is a linear layer on DINOv2's frozen transformer (`vit_dinov2.py`), which costs minutes on
a CPU. The differences between the arms are the leakage gaps.
"""

from ml_collections import ConfigDict

from configs import vit_dinov2


def get_config() -> ConfigDict:
    """Returns the settings of `vit_dinov2.py`, which all arms share, and `study`."""
    config = vit_dinov2.get_config()
    with config.unlocked():
        config.study = ConfigDict()
        config.study.seeds = (0, 1, 2, 3, 4)
        config.study.folds = 0
        config.study.arms = ("leaky", "paper", "clean")
        config.study.changes = ConfigDict(
            {arm: {"data": {"protocol": arm}} for arm in ("leaky", "paper", "clean")}
        )
        config.study.published = ConfigDict()
    return config
