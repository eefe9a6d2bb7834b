"""GoogLeNet with its two auxiliary heads, the cited comparison of the paper's Table 4.

    python -m jaxbusi.main --config configs/googlenet.py --workdir runs/googlenet \
        --config.data.root=Dataset_BUSI_with_GT

The paper's row (accuracy 84.6 %) is cited from elsewhere; here the model is trained.
"""

from ml_collections import ConfigDict

from configs import fusion


def get_config() -> ConfigDict:
    """Returns the settings of `fusion.py` with GoogLeNet alone, with its own dropout."""
    config = fusion.get_config()
    config.model.branches = ("googlenet",)
    config.model.hidden = ()
    config.model.dropout = 0.2
    return config
