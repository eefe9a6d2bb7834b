"""What a split is worth: one model under the leaky, the paper's and the clean protocol.

    python -m jaxbusi.study --config configs/protocols.py --workdir runs/protocols \
        --config.data.root=Dataset_BUSI_with_GT --config.weights.vit=dinov2-small.safetensors

The model is that of `fusion_dinov2.py`. Each protocol divides the images in five folds of its own
and tests on each in turn, so that the leakage gaps, the differences between the arms, are those of
the whole set. The features of the frozen transformer are computed once for all runs.
"""

from ml_collections import ConfigDict

from configs import fusion_dinov2


def get_config() -> ConfigDict:
    """Returns the settings of `fusion_dinov2.py`, which all arms share, and `study`."""
    config = fusion_dinov2.get_config()
    with config.unlocked():
        config.study = ConfigDict()
        config.study.seeds = (0,)
        config.study.folds = 5
        config.study.arms = ("leaky", "paper", "clean")
        config.study.changes = ConfigDict(
            {arm: {"data": {"protocol": arm}} for arm in ("leaky", "paper", "clean")}
        )
        config.study.published = ConfigDict()
    return config
