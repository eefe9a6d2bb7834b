"""The paper's transformer alone: ViT-B/16 with one linear layer, otherwise its recipe.

    python -m jaxbusi.main --config configs/vit_b16.py --workdir runs/vit_b16 \
        --config.data.root=Dataset_BUSI_with_GT

The paper discusses this model and gives no row for it in Table 4.
"""

from ml_collections import ConfigDict

from configs import fusion


def get_config() -> ConfigDict:
    """Returns the settings of `fusion.py` with the transformer branch alone."""
    config = fusion.get_config()
    config.model.branches = ("vit",)
    config.model.hidden = ()
    return config
