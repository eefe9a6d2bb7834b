"""A small fusion model on synthetic images, to see the whole road in under three minutes.

    python -m jaxbusi.main --config configs/demo.py --workdir runs/demo

The images are generated (`jaxbusi/data/phantoms.py`), so that the numbers say that the program
works and nothing about patients.
"""

from ml_collections import ConfigDict

from configs import fusion


def get_config() -> ConfigDict:
    """Returns the settings of `fusion.py`, cut down to two CPU cores and a few minutes."""
    config = fusion.get_config()
    config.num_epochs = 6.0
    config.batch_size = 32
    config.data.phantoms = 160
    config.data.augment.resize = 108
    config.data.augment.crop = 96
    config.data.augment.scale = (0.5, 1.0)  # so that lesions stay in the picture
    config.model.vit = "Ti16"
    config.optim.learning_rate = 3e-4  # a few epochs are too short for the paper's 1e-3
    config.optim.decay_every = 5.0
    return config
