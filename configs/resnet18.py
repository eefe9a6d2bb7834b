"""The paper's first comparison: ResNet18 alone with one linear layer, otherwise its recipe.

    python -m jaxbusi.main --config configs/resnet18.py --workdir runs/resnet18 \
        --config.data.root=Dataset_BUSI_with_GT

The paper's Table 4 has accuracy 88.1 %.
"""

from ml_collections import ConfigDict

from configs import fusion


def get_config() -> ConfigDict:
    """Returns the settings of `fusion.py` with the convolutional branch alone."""
    config = fusion.get_config()
    config.model.branches = ("resnet18",)
    config.model.hidden = ()
    return config
