"""The paper's Table 4: GoogLeNet, ResNet18, the transformer alone and the fusion, over five seeds.

    python -m jaxbusi.study --config configs/table4.py --workdir runs/table4 \
        --config.data.root=Dataset_BUSI_with_GT

Every arm is trained with the paper's recipe (`fusion.py`) on the same splits; each seed draws a
split of its own. ImageNet weights are named once for all arms, `--config.weights.resnet18=FILE`;
an arm takes those of its branches. Given the same command again, finished runs are kept.
"""

from ml_collections import ConfigDict

from configs import fusion, googlenet, resnet18, vit_b16


def get_config() -> ConfigDict:
    """Returns the settings of `fusion.py`, which all arms share, and `study`."""
    config = fusion.get_config()
    with config.unlocked():
        config.study = ConfigDict()
        config.study.seeds = (0, 1, 2, 3, 4)  # each in place of config.seed; decides the split too
        config.study.folds = 0  # cross-validation: so many runs a seed, each image tested once
        config.study.arms = ("GoogLeNet", "ResNet18", "ViT", "Fusion")  # in the order of the table
        # What each arm changes in the shared settings: as its own config does.
        config.study.changes = ConfigDict(
            {
                "GoogLeNet": {"model": _head_and_branches(googlenet.get_config())},
                "ResNet18": {"model": _head_and_branches(resnet18.get_config())},
                "ViT": {"model": _head_and_branches(vit_b16.get_config())},
                "Fusion": {},
            }
        )
        # As printed, on 780 copies of one split; the row of GoogLeNet is cited from elsewhere, and
        # the transformer alone has none.
        config.study.published = ConfigDict(
            {
                "GoogLeNet": {"accuracy": 0.846},
                "ResNet18": {"accuracy": 0.881},
                "Fusion": {"accuracy": 0.932, "precision": 0.921, "recall": 0.926},
            }
        )
    return config


def _head_and_branches(config: ConfigDict) -> dict[str, object]:
    model = config.model
    return {"branches": model.branches, "hidden": model.hidden, "dropout": model.dropout}
