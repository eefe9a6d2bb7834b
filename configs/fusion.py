"""The paper's system and recipe: ResNet18 and ViT-B/16 in parallel, trained together.

    python -m jaxbusi.main --config configs/fusion.py --workdir runs/fusion \
        --config.data.root=Dataset_BUSI_with_GT

The paper reports accuracy 93.2 %, macro precision 92.1 % and macro recall 92.6 % on the 780 copies
of a random 8:2 split (its Table 4). It does not say how the weights were initialised; from random
weights 624 images cannot train a ViT-B/16, see the README for what this recipe measured.
Every other config starts from this one and changes a few lines.
"""

from ml_collections import ConfigDict


def get_config() -> ConfigDict:
    """Returns the settings of the paper; each may be overridden as `--config.KEY=VALUE`."""
    config = ConfigDict()

    config.seed = 0  # decides split, augmentation, order, initial weights and dropout
    config.num_epochs = 30.0  # one epoch is every copy of every training image once
    # Training ends after so many evaluations in a row without a new lowest validation loss; 0 never
    # ends it early. Goes with config.checkpoint.evaluate='best'.
    config.patience = 0
    config.batch_size = 64  # images an optimizer step, over all devices
    config.accumulate = 1  # micro-batches an optimizer step, to fit less memory
    config.ema_decay = 0.0  # of an average of the weights used in evaluation; 0 is none
    config.compute_dtype = "float32"  # or 'bfloat16'; parameters are float32 in either case
    config.init_from = ""  # workdir of a run of the same model to start from; empty is none

    config.data = ConfigDict()
    # The set: a folder with one sub-folder a class, or a CSV file with the columns image (a path
    # relative to the file), label and, where known, patient. Required unless phantoms > 0.
    config.data.root = ""
    config.data.external = ""  # a second hospital's, likewise, evaluated only; empty is none
    # 'paper' splits the images 8:2 and expands both parts; 'leaky' expands first; 'clean' keeps the
    # images of a group together and evaluates without copies.
    config.data.protocol = "paper"
    config.data.groups = ""  # CSV with image and group (or patient); empty looks for near-copies
    config.data.split = ""  # a split.csv to reuse exactly; empty draws one from the seed
    config.data.folds = 0  # cross-validation in so many folds in place of one split; 0 is off
    config.data.fold = 0  # the fold that is tested on
    config.data.phantoms = 0  # synthetic images to make where root is empty
    config.data.train_fraction = 0.8  # of each class
    config.data.validation_fraction = 0.0  # of the training part, to choose the best checkpoint by
    config.data.copies = 5  # five-fold expansion; copy 0 of an evaluation image is the image itself
    config.data.views = (
        0  # augmentations of a training copy that repeat; 0 is a new one every epoch
    )
    config.data.on_bad_image = "error"  # or 'skip': leave unreadable images out and list them
    config.data.sampling = "natural"  # or 'balanced': each class as often as the others
    config.data.cache_gib = 4.0  # decoded images are kept in memory up to this size, else streamed
    config.data.workers = 0  # loader processes; 0 loads with threads

    config.data.augment = ConfigDict()
    config.data.augment.resize = 256  # pixels, square, before the crop
    config.data.augment.crop = 224  # pixels, square: the size the model sees
    config.data.augment.scale = (0.08, 1.0)  # area of the random crop, share of the image
    config.data.augment.ratio = (0.75, 4 / 3)  # width to height of the random crop
    config.data.augment.horizontal_flip = 0.5  # probability
    config.data.augment.vertical_flip = 0.5  # probability
    config.data.augment.rotation = 15.0  # largest angle, degrees, either way
    config.data.augment.brightness = 0.2  # factor in 1 ± this
    config.data.augment.contrast = 0.2  # factor in 1 ± this
    config.data.augment.saturation = 0.2  # factor in 1 ± this
    config.data.augment.hue = 0.1  # share of the colour circle, either way
    config.data.augment.translation = 0.1  # largest shift, share of the crop's side

    config.model = ConfigDict()
    config.model.branches = ("resnet18", "vit")  # any of resnet18, vit, googlenet
    config.model.vit = "B16"  # Ti16, S16, B16 or S14
    config.model.pooling = "mean"  # of the patch tokens; or 'class', or 'both'
    config.model.remat = False  # transformer: compute its layers twice to fit a third of the memory
    config.model.hidden = (512, 128)  # widths between the joined features and the classes
    config.model.dropout = 0.0  # before each layer of the head

    config.weights = ConfigDict()  # files that branches start from: public checkpoints, as they are
    config.weights.resnet18 = ""  # or converted by jaxbusi.convert; empty is random
    config.weights.vit = ""
    config.weights.googlenet = ""

    config.optim = ConfigDict()
    config.optim.name = "adam"  # with L2; or 'adamw'
    config.optim.learning_rate = 1e-3
    config.optim.l2 = 1e-5  # adam: times the weights, added to the gradient before Adam
    config.optim.weight_decay = 0.01  # adamw: times the rate and the weights, beside Adam
    config.optim.clip_norm = 0.0  # longest gradient, over all parameters; 0 is any length
    config.optim.schedule = "staircase"  # or 'cosine': warm-up, then down to 0 at the last epoch
    config.optim.decay_every = 10.0  # staircase: epochs between its steps
    config.optim.decay_factor = 0.1  # staircase: multiplies the rate at each
    config.optim.warmup_epochs = 0.0  # cosine: epochs of linear rise to the learning rate
    config.optim.factors = ConfigDict()  # multiply the learning rate, and AdamW's decay with it
    config.optim.factors.resnet18 = 1.0
    config.optim.factors.vit = 1.0
    config.optim.factors.googlenet = 1.0
    config.optim.factors.head = 1.0
    config.optim.vit_layer_decay = 1.0  # once more for each transformer layer away from the head

    # First epochs in which a branch's weights and batch statistics stay as they are; -1 is all. The
    # features of a branch that stays for good are computed once, where config.data.views repeat.
    config.freeze = ConfigDict()
    config.freeze.resnet18 = 0.0
    config.freeze.vit = 0.0
    config.freeze.googlenet = 0.0

    config.loss = ConfigDict()
    config.loss.label_smoothing = 0.0  # share of the target given to all classes alike
    config.loss.class_weights = "none"  # or 'balanced': by the classes' shares of the training part

    config.mixing = ConfigDict()  # with both, each image gets one of them by the toss of a coin
    config.mixing.mixup_alpha = 0.0  # of the Beta distribution of an image's share; 0 is off
    config.mixing.cutmix_alpha = 0.0  # of the Beta distribution of its area; 0 is off

    config.checkpoint = ConfigDict()
    config.checkpoint.every_epochs = 1.0
    config.checkpoint.keep = 2  # latest ones; the best one is kept besides
    config.checkpoint.evaluate = "latest"  # or 'best': needs a validation part

    config.eval_every_epochs = 1.0  # points of the learning curves
    return config.lock()
