"""What the settings of fine-tuning do: to frozen branches, rates, losses, samples and images."""

import dataclasses
import functools
import itertools
import signal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from sklearn.utils.class_weight import compute_class_weight

from configs import fusion
from jaxbusi import evidence, loop, train
from jaxbusi.checkpoints import Checkpoints
from jaxbusi.evaluation.predictions import Predictions
from jaxbusi.logs import read_history
from jaxbusi.loop import Durations
from jaxbusi.losses import CrossEntropy, balanced_weights
from jaxbusi.mixing import Mixing
from jaxbusi.models.fusion import Classifier, Output
from jaxbusi.models.vit import ViTSize
from jaxbusi.optim import FOR_GOOD, make_optimizer, make_schedule, scale_by_part, warmup_cosine
from jaxbusi.settings import Settings
from jaxbusi.state import batch_sharding, create_state, make_mesh, random_state, replicated
from jaxbusi.steps import train_step
from jaxbusi.train import Stopped, train_and_evaluate
from tests.runs import make_config, stop_after
from tests.tiny import TinyModel, weights_of

TINY_VIT = ViTSize(patch=8, width=16, depth=2, heads=2, mlp=32)


class TwoBranches(nn.Module):
    """Two small branches with batch statistics, frozen as `Classifier` freezes its own."""

    frozen: tuple[str, ...] = ()

    @nn.compact
    def __call__(self, images: jax.Array, *, train: bool, given=None) -> Output:
        x = images.astype(jnp.float32) / 255.0
        given = given or {}
        features = {
            name: given[name] if name in given else self._branch(x, name, train)
            for name in ("resnet18", "vit")
        }
        joined = jnp.concatenate(list(features.values()), axis=-1)
        return Output(nn.Dense(3, name="head")(joined), (), features)

    def _branch(self, x: jax.Array, name: str, train: bool) -> jax.Array:
        y = _Branch(name=name)(x, train=train and name not in self.frozen)
        return jax.lax.stop_gradient(y) if name in self.frozen else y


class _Branch(nn.Module):
    @nn.compact
    def __call__(self, x: jax.Array, *, train: bool) -> jax.Array:
        x = nn.Conv(4, (3, 3), name="layer_0")(x)
        x = nn.BatchNorm(use_running_average=not train, momentum=0.9, name="norm")(x)
        return jnp.mean(nn.relu(x), axis=(1, 2))


def make_settings(**changes):
    config = fusion.get_config()
    config.update_from_flattened_dict(changes)
    return Settings.from_config(config)


def optimizer_of(thaw=None, rate=1e-2, **changes):
    settings = make_settings(**{f"optim.{key}": value for key, value in changes.items()})
    return make_optimizer(settings.optim, lambda count: rate, thaw=thaw)


def update(optimizer, *arguments):
    """As `train_step` calls it: optax mixes its step counters with floats."""
    with jax.numpy_dtype_promotion("standard"):
        return optimizer.update(*arguments)


def make_batch(rows=8, seed=0, size=8):
    rng = np.random.default_rng(seed)
    return {
        "image": rng.integers(0, 256, (rows, size, size, 3), dtype=np.uint8),
        "label": rng.integers(0, 3, rows).astype(np.int32),
    }


def take_steps(model, optimizer, frozen_at, *, steps, mesh=None, size=8, average=True, **options):
    """Copies of the states after 0, 1, … steps, and the reports."""
    mesh = mesh or make_mesh()
    whole, sharded = replicated(mesh), batch_sharding(mesh)
    state = create_state(model, optimizer, mesh, seed=0, image_size=size, average=average)
    step_fn = functools.partial(
        train_step, model=model, optimizer=optimizer, seed=0, ema_decay=0.9, **options
    )

    @functools.cache
    def compiled(frozen):
        return jax.jit(
            functools.partial(step_fn, frozen=frozen),
            in_shardings=(whole, sharded),
            out_shardings=(whole, whole),
        )

    states, reports = [state], []
    for step in range(steps):
        batch = jax.device_put(make_batch(seed=step, size=size), sharded)
        state, report = compiled(frozen_at(step))(state, batch)
        states.append(state)
        reports.append(report)
    return jax.device_get(states), jax.device_get(reports)


def bits(tree):
    return {
        jax.tree_util.keystr(path): np.asarray(leaf).tobytes()
        for path, leaf in jax.tree.leaves_with_path(tree)
    }


def branch_of(state, name):
    """Everything that is learnt of a branch: parameters, batch statistics, their average."""
    return [
        {kind: tree[kind].get(name, {}) for kind in ("params", "batch_stats")}
        for tree in (state.variables(), state.average)
    ]


@pytest.mark.parametrize(("name", "accumulate"), [("adam", 2), ("adamw", 1)])
def test_a_frozen_branch_stays_bit_for_bit_and_thaws_at_its_step(name, accumulate):
    optimizer = optimizer_of({"vit": 3}, name=name, l2=0.1, weight_decay=0.1)
    states, _ = take_steps(
        TwoBranches(),
        optimizer,
        lambda step: ("vit",) if step < 3 else (),
        steps=5,
        accumulate=accumulate,
    )
    first = states[0]
    for state in states[1:4]:
        assert bits(branch_of(state, "vit")) == bits(branch_of(first, "vit"))
        assert bits(branch_of(state, "resnet18")) != bits(branch_of(first, "resnet18"))
    for before, after in itertools.pairwise(states[3:]):
        old, new = bits(branch_of(before, "vit")), bits(branch_of(after, "vit"))
        # A convolution's bias in front of batch normalisation has only rounding for a gradient.
        assert all(new[key] != old[key] for key in old if "bias" not in key)


def test_a_thawed_branch_takes_adams_first_step():
    """Its moments begin at the thaw, so that the first step is the rate times the sign."""
    model, rate = TwoBranches(), 1e-2
    states, _ = take_steps(
        model,
        optimizer_of({"vit": 3}, rate, l2=0.0),
        lambda step: ("vit",) if step < 3 else (),
        steps=4,
    )
    moved = states[4].params["vit"]["norm"]["scale"] - states[3].params["vit"]["norm"]["scale"]
    np.testing.assert_allclose(np.abs(moved), rate, rtol=1e-3)


def test_negative_zeros_stay_negative_while_frozen():
    mesh, model, optimizer = make_mesh(), TwoBranches(), optimizer_of({"vit": FOR_GOOD})
    state = create_state(model, optimizer, mesh, seed=0, image_size=8, average=True)
    zeros = jax.tree.map(lambda x: -jnp.zeros_like(x), state.params["vit"])
    state = dataclasses.replace(state, params={**state.params, "vit": zeros})
    after, _ = jax.jit(
        functools.partial(
            train_step, model=model, optimizer=optimizer, seed=0, ema_decay=0.9, frozen=("vit",)
        )
    )(state, make_batch())
    assert bits(after.params["vit"]) == bits(zeros)


def test_a_branch_frozen_for_good_has_no_moments():
    params = {"vit": {"w": jnp.ones(1000)}, "head": {"w": jnp.ones(10)}}
    frozen = optimizer_of({"vit": FOR_GOOD}).init(params)
    free = optimizer_of().init(params)
    count = [sum(leaf.size for leaf in jax.tree.leaves(state)) for state in (frozen, free)]
    assert count[0] < 30
    assert count[1] > 2000


@pytest.fixture(scope="module")
def classifier():
    return Classifier(vit=TINY_VIT, hidden=(8,))


@pytest.mark.parametrize("frozen", [("resnet18",), ("vit",), ("resnet18", "vit")])
def test_the_classifiers_frozen_branches_cost_their_forward_pass_only(classifier, frozen):
    """Counted in the traced program: a convolution or product forward is two more backward."""
    optimizer = optimizer_of(dict.fromkeys(frozen, FOR_GOOD))
    state = jax.eval_shape(
        lambda: random_state(classifier, optimizer, seed=0, image_size=32, average=False)
    )
    batch = make_batch(rows=4, size=32)

    def operations(*frozen):
        step = functools.partial(
            train_step, model=classifier, optimizer=optimizer, seed=0, frozen=frozen
        )
        text = str(jax.make_jaxpr(step)(state, batch))
        return text.count("conv_general_dilated["), text.count("dot_general[")

    convolutions, products = operations(*frozen)
    # 20 convolutions of ResNet18, 1 of the transformer; its 2 layers have 6 products each, the
    # head 2, the confusion matrix 1. An image's gradient is not asked for, so that first
    # convolutions have one backward.
    assert convolutions == 21 + (0 if "resnet18" in frozen else 39) + (0 if "vit" in frozen else 1)
    head = 2 + 2 * 2 - (1 if len(frozen) == 2 else 0)
    assert products == 12 + (0 if "vit" in frozen else 24) + head + 1


def test_the_classifiers_frozen_branch_applies_running_statistics(classifier):
    images = make_batch(rows=4, size=32)["image"]
    variables = weights_of(classifier, images)
    apply = functools.partial(classifier.clone(frozen=("resnet18",)).apply, mutable="batch_stats")
    trained, updated = jax.jit(functools.partial(apply, train=True))(variables, images)
    evaluated = jax.jit(functools.partial(classifier.apply, train=False))(variables, images)
    np.testing.assert_allclose(
        trained.features["resnet18"], evaluated.features["resnet18"], rtol=1e-5, atol=1e-6
    )
    assert bits(updated["batch_stats"]) == bits(variables["batch_stats"])


def test_durations_resolve_freezing_and_warm_up_into_steps():
    settings = make_settings(
        **{"freeze.resnet18": 0.5, "freeze.vit": -1.0, "freeze.googlenet": 3.0},
        **{"num_epochs": 4.0, "optim.warmup_epochs": 0.3, "batch_size": 64},
    )
    durations = Durations.resolve(settings, 640)
    assert (durations.total, durations.warmup) == (40, 3)
    assert durations.thaw == {"resnet18": 5, "vit": FOR_GOOD}  # there is no googlenet
    assert [durations.frozen(step) for step in (0, 4, 5, 39)] == [
        ("resnet18", "vit"),
        ("resnet18", "vit"),
        ("vit",),
        ("vit",),
    ]


def test_the_papers_recipe_freezes_nothing():
    durations = Durations.resolve(Settings.from_config(fusion.get_config()), 3120)
    assert durations.thaw == {}
    assert durations.frozen(0) == ()


# --- rates ---------------------------------------------------------------------------------------


def test_each_part_has_its_rate_and_each_layer_of_the_transformer_its_own():
    ones = {
        "resnet18": {"conv1": 1.0},
        "vit": {
            "patch_embedding": {"kernel": 1.0},
            "position_embedding": 1.0,
            "layer_0": {"fc1": 1.0},
            "layer_1": {"fc1": 1.0},
            "norm": {"scale": 1.0},
        },
        "head": {"logits": 1.0},
    }
    ones = jax.tree.map(jnp.float32, ones)
    scale = scale_by_part({"resnet18": 3.0, "vit": 2.0, "head": 10.0}, layer_decay=0.5)
    updates, _ = scale.update(ones, scale.init(ones))
    assert jax.tree.map(float, updates) == {
        "resnet18": {"conv1": 3.0},
        "vit": {
            "patch_embedding": {"kernel": 0.25},
            "position_embedding": 0.25,
            "layer_0": {"fc1": 0.5},
            "layer_1": {"fc1": 1.0},
            "norm": {"scale": 2.0},
        },
        "head": {"logits": 10.0},
    }


def test_a_factor_multiplies_the_step():
    """Adam's first step is the rate times the sign of the gradient."""
    params = {"vit": {"norm": {"scale": jnp.ones(3)}}, "head": {"logits": {"bias": jnp.ones(3)}}}
    optimizer = optimizer_of(None, 1e-2, **{"l2": 0.0, "factors.head": 5.0})
    gradients = jax.tree.map(jnp.ones_like, params)
    updates, _ = update(optimizer, gradients, optimizer.init(params), params)
    np.testing.assert_allclose(updates["vit"]["norm"]["scale"], -1e-2, rtol=1e-5)
    np.testing.assert_allclose(updates["head"]["logits"]["bias"], -5e-2, rtol=1e-5)


def test_the_gradient_is_clipped_over_all_parameters():
    """Of a norm of 5, 3 and 4 become 0.3 and 0.4 of the clip; seen through moments from 0."""
    settings = make_settings(**{"optim.clip_norm": 0.5, "optim.l2": 0.0}).optim
    optimizer = make_optimizer(settings, lambda count: 1.0)
    params = {"vit": jnp.ones(1), "head": jnp.ones(1)}
    gradients = {"vit": jnp.float32([3.0]), "head": jnp.float32([4.0])}
    _, state = update(optimizer, gradients, optimizer.init(params), params)
    first = optax.tree.get(state, "mu")
    np.testing.assert_allclose(first["vit"], 0.1 * 0.3, rtol=1e-5)
    np.testing.assert_allclose(first["head"], 0.1 * 0.4, rtol=1e-5)


def test_the_warm_up_rises_by_equal_steps_and_the_cosine_ends_at_zero():
    rates = warmup_cosine(0.8, warmup_steps=3, total_steps=11)
    wanted = [0.2, 0.4, 0.6] + [0.4 * (1 + np.cos(np.pi * t / 8)) for t in range(9)]
    np.testing.assert_allclose([float(rates(t)) for t in range(12)], wanted, atol=1e-7)
    assert float(warmup_cosine(0.8, warmup_steps=0, total_steps=4)(0)) == pytest.approx(0.8)


def test_the_cosine_is_torchs():
    torch = pytest.importorskip("torch")
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.3)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=20)
    ours = warmup_cosine(0.3, warmup_steps=5, total_steps=25)
    for step in range(5, 25):
        assert float(ours(step)) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-7)
        optimizer.step()
        schedule.step()


def test_the_schedule_is_the_one_that_is_named():
    settings = make_settings(**{"optim.schedule": "cosine"}).optim
    cosine = make_schedule(settings, decay_steps=5, warmup_steps=4, total_steps=10)
    assert [float(cosine(step)) for step in (0, 4)] == pytest.approx([2e-4, 1e-3])
    assert float(cosine(7)) == pytest.approx(5e-4)
    stairs = make_schedule(make_settings().optim, decay_steps=5, warmup_steps=4, total_steps=10)
    assert [float(stairs(step)) for step in (0, 4, 5)] == pytest.approx([1e-3, 1e-3, 1e-4])


def adamw_steps(gradients, start, *, rate, decay):
    """AdamW of the paper (arXiv:1711.05101, algorithm 2) in float64, as torch writes it."""
    value, first, second = start.astype(np.float64), 0.0, 0.0
    for step, gradient in enumerate(gradients, 1):
        value = value * (1 - rate * decay)
        first = 0.9 * first + 0.1 * gradient
        second = 0.999 * second + 0.001 * gradient**2
        unbiased = first / (1 - 0.9**step), second / (1 - 0.999**step)
        value = value - rate * unbiased[0] / (np.sqrt(unbiased[1]) + 1e-8)
    return value


def random_gradients():
    rng = np.random.default_rng(3)
    start = rng.normal(size=12).astype(np.float32)
    # The second half is so small that the decay outweighs it.
    scale = np.where(np.arange(12) < 6, 1.0, 1e-6)
    return start, [(scale * rng.normal(size=12)).astype(np.float32) for _ in range(20)]


def ours_after(optimizer, start, gradients):
    params = {"head": jnp.asarray(start)}
    state = optimizer.init(params)
    for gradient in gradients:
        updates, state = update(optimizer, {"head": jnp.asarray(gradient)}, state, params)
        params = optax.apply_updates(params, updates)
    return params["head"]


def test_twenty_steps_of_adamw_by_hand():
    start, gradients = random_gradients()
    optimizer = optimizer_of(None, 1e-2, name="adamw", weight_decay=0.3, l2=5.0)  # no L2 here
    wanted = adamw_steps(gradients, start, rate=1e-2, decay=0.3)
    np.testing.assert_allclose(ours_after(optimizer, start, gradients), wanted, rtol=2e-5)
    # A factor is a rate of its own, for the decay too, as in a parameter group of torch.
    halved = optimizer_of(None, 1e-2, **{"name": "adamw", "weight_decay": 0.3, "factors.head": 0.5})
    wanted = adamw_steps(gradients, start, rate=5e-3, decay=0.3)
    np.testing.assert_allclose(ours_after(halved, start, gradients), wanted, rtol=2e-5)


def test_twenty_steps_of_adamw_are_torchs():
    torch = pytest.importorskip("torch")
    start, gradients = random_gradients()
    parameter = torch.nn.Parameter(torch.tensor(start))
    optimizer = torch.optim.AdamW([parameter], lr=1e-2, weight_decay=0.3)
    for gradient in gradients:
        parameter.grad = torch.tensor(gradient)
        optimizer.step()
    ours = optimizer_of(None, 1e-2, name="adamw", weight_decay=0.3)
    np.testing.assert_allclose(
        ours_after(ours, start, gradients), parameter.numpy(force=True), rtol=2e-5
    )


# --- losses --------------------------------------------------------------------------------------


def mean_loss(loss, logits, targets):
    targets = jnp.asarray(targets)
    losses = loss.per_example(jnp.asarray(logits), targets)
    return float(jnp.mean(losses) / loss.mean_weight(targets))


def test_label_smoothing_and_class_weights_by_hand():
    # Probabilities 1/2, 1/4, 1/4 for both examples, of classes 0 and 1.
    logits = np.log(np.float32([[2, 1, 1], [2, 1, 1]]))
    labels = np.int32([0, 1])
    two = np.log(2)
    assert mean_loss(CrossEntropy(), logits, labels) == pytest.approx(1.5 * two)
    # 0.7 of the true class and 0.1 of each: 0.7·1 + 0.1·(1+2+2) and 0.7·2 + 0.1·5 doublings.
    smooth = mean_loss(CrossEntropy(label_smoothing=0.3), logits, labels)
    assert smooth == pytest.approx((1.2 + 1.9) / 2 * two)
    weighted = CrossEntropy(class_weights=(1.0, 3.0, 10.0))
    assert mean_loss(weighted, logits, labels) == pytest.approx((1 * 1 + 3 * 2) / 4 * two)
    # Each class with its own weight: 0.7·1·1 + 0.1·(1·1 + 3·2 + 10·2), 0.7·3·2 + the same.
    both = CrossEntropy(label_smoothing=0.3, class_weights=(1.0, 3.0, 10.0))
    assert mean_loss(both, logits, labels) == pytest.approx((3.4 + 6.9) / 4 * two)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("weights", [None, (0.6, 1.2, 2.0)])
def test_the_loss_and_its_gradient_are_torchs(smoothing, weights):
    torch = pytest.importorskip("torch")
    rng = np.random.default_rng(0)
    logits, labels = rng.normal(size=(9, 3)).astype(np.float32), rng.integers(0, 3, 9)
    theirs = torch.nn.CrossEntropyLoss(
        weight=None if weights is None else torch.tensor(weights), label_smoothing=smoothing
    )
    inputs = torch.tensor(logits, requires_grad=True)
    wanted = theirs(inputs, torch.tensor(labels))
    wanted.backward()
    ours = CrossEntropy(smoothing, weights)
    targets = jnp.asarray(labels, jnp.int32)

    def loss_fn(x):
        return jnp.mean(ours.per_example(x, targets)) / ours.mean_weight(targets)

    value, gradient = jax.value_and_grad(loss_fn)(jnp.asarray(logits))
    assert float(value) == pytest.approx(wanted.item(), rel=1e-5)
    np.testing.assert_allclose(gradient, inputs.grad.numpy(), rtol=1e-4, atol=1e-7)
    # A label and the whole share of its class are the same target.
    assert mean_loss(ours, logits, np.eye(3, dtype=np.float32)[labels]) == pytest.approx(
        wanted.item(), rel=1e-5
    )
    if weights is None:
        shares = rng.dirichlet((1, 1, 1), 9).astype(np.float32)
        wanted = theirs(inputs, torch.tensor(shares))
        assert mean_loss(ours, logits, shares) == pytest.approx(wanted.item(), rel=1e-5)


def test_balanced_weights_are_sklearns():
    labels = np.repeat([0, 1, 2], [437, 210, 133])
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(balanced_weights(labels, 3), wanted)
    assert balanced_weights(labels, 3)[2] == pytest.approx(780 / (3 * 133))
    # sklearn refuses a class that does not occur; the others weigh as if there were only them.
    assert balanced_weights(np.array([0, 0, 0, 2]), 3) == pytest.approx((4 / 6, 0, 2))


def test_accumulation_divides_by_the_weights_of_the_whole_batch():
    """Halves of another mixture of classes: the mean of their weighted means would be wrong."""
    mesh = make_mesh()
    optimizer = optimizer_of()
    batch = make_batch(rows=8)
    batch["label"] = np.int32([0, 1, 0, 2, 0, 2, 0, 2])  # the first micro-batch has the even rows
    batch["image"][1::2] = batch["image"][::2]  # for equal batch statistics
    losses = []
    for accumulate in (1, 2):
        state = create_state(TinyModel(), optimizer, mesh, seed=0, image_size=8, average=False)
        step = functools.partial(
            train_step, model=TinyModel(), optimizer=optimizer, seed=0, accumulate=accumulate
        )
        loss = CrossEntropy(class_weights=(0.5, 2.0, 4.0))
        state, report = jax.jit(functools.partial(step, loss=loss))(state, batch)
        losses.append([float(report.loss), float(report.gradient_norm)])
    np.testing.assert_allclose(losses[0], losses[1], rtol=1e-5)


# --- mixing --------------------------------------------------------------------------------------


def values(rows):
    """Of images of one value each, from which it can be read off what an image is made of."""
    return 10.0 * np.arange(rows) % 256


def mix(mixing, rows, size):
    labels = jnp.asarray(np.arange(rows) % 3, jnp.int32)
    images = np.uint8(values(rows)).reshape(-1, 1, 1, 1) * np.ones((1, size, size, 3), np.uint8)
    mixed = jax.jit(mixing, static_argnums=2)(jnp.asarray(images), labels, 3, jax.random.key(0))
    return jax.device_get(mixed)


def own_shares(images):
    """Of each image in itself, the rest being of the next."""
    own = values(len(images))
    following = np.roll(own, -1)
    return (images[:, 0, 0, 0] - following) / (own - following)


def test_mixup_blends_an_image_and_its_label_with_the_next_by_one_share():
    images, targets = mix(Mixing(mixup_alpha=0.8), rows=8, size=16)
    share = own_shares(images)
    assert ((share > 0) & (share < 1)).all()
    assert len(np.unique(share.round(4))) == 8  # each image has its own
    np.testing.assert_allclose(images, images[:, :1, :1, :1] * np.ones((1, 16, 16, 3)), rtol=1e-6)
    truth = np.eye(3)[np.arange(8) % 3]
    wanted = share[:, None] * truth + (1 - share)[:, None] * np.roll(truth, -1, axis=0)
    np.testing.assert_allclose(targets, wanted, atol=1e-5)


def test_cutmix_pastes_a_rectangle_and_counts_its_pixels():
    images, targets = mix(Mixing(cutmix_alpha=1.0), rows=32, size=20)
    own = values(32).reshape(32, 1, 1)
    pasted = images[..., 0] != own
    following = np.roll(own, -1, axis=0)
    np.testing.assert_array_equal(images[..., 0], np.where(pasted, following, own))
    for mask in pasted:
        rows, columns = mask.any(axis=1), mask.any(axis=0)
        np.testing.assert_array_equal(mask, np.outer(rows, columns))
        for line in (rows, columns):  # without a hole
            assert np.count_nonzero(np.diff(np.concatenate([[0], line, [0]]).astype(int))) <= 2
    kept = 1 - pasted.mean(axis=(1, 2))
    assert 0.3 < kept.mean() < 0.9
    truth = np.eye(3)[np.arange(32) % 3]
    wanted = kept[:, None] * truth + (1 - kept)[:, None] * np.roll(truth, -1, axis=0)
    np.testing.assert_allclose(targets, wanted, atol=1e-6)


def test_with_both_kinds_an_image_gets_one():
    images, _ = mix(Mixing(mixup_alpha=0.8, cutmix_alpha=1.0), rows=64, size=16)
    own = values(64)
    # What is pasted or whole keeps whole values, a blend is one value everywhere between two.
    blended = np.array([len(np.unique(image)) == 1 for image in images]) & (
        images[:, 0, 0, 0] != own
    )
    assert 16 < blended.sum() < 48


def test_the_share_is_drawn_from_the_beta_distribution():
    shares = own_shares(mix(Mixing(mixup_alpha=0.4), rows=1000, size=1)[0])
    # Beta(a, a): mean 1/2, variance 1 / (4 (2a + 1)).
    assert shares.mean() == pytest.approx(0.5, abs=0.04)
    assert shares.var() == pytest.approx(1 / (4 * 1.8), rel=0.1)


def test_two_devices_mix_as_one():
    results = []
    for devices in (jax.devices()[:1], jax.devices()[:2]):
        states, reports = take_steps(
            TinyModel(),
            optimizer_of(),
            lambda step: (),
            steps=2,
            mesh=make_mesh(devices),
            mixing=Mixing(0.8, 1.0),
            loss=CrossEntropy(0.1, (0.5, 1.0, 2.0)),
            accumulate=2,
        )
        results.append((states[-1].params, [report.loss for report in reports]))
    for one, two in zip(*map(jax.tree.leaves, results), strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-4, atol=1e-5)


def test_a_mixed_step_minimises_the_loss_of_its_mixture():
    """The step's loss is that of the mixed images under the soft targets, and changes by step."""
    model, optimizer, mixing = TinyModel(), optimizer_of(), Mixing(mixup_alpha=0.8)
    states, reports = take_steps(model, optimizer, lambda step: (), steps=2, mixing=mixing)
    for step in range(2):
        batch = make_batch(seed=step)
        key = jax.random.key(0)
        for number in (2, step):  # the stream of mixing, the step
            key = jax.random.fold_in(key, number)
        images, targets = mixing(jnp.asarray(batch["image"]), jnp.asarray(batch["label"]), 3, key)
        output, _ = model.apply(
            states[step].variables(), images, train=True, mutable=["batch_stats"]
        )
        losses = [
            optax.softmax_cross_entropy(x, targets) for x in (output.logits, *output.auxiliary)
        ]
        wanted = losses[0].mean() + 0.3 * losses[1].mean()
        assert float(reports[step].loss) == pytest.approx(float(wanted), rel=1e-5)
        counted = np.bincount(np.argmax(targets, axis=1), minlength=3)
        before, after = (state.metrics.confusion.matrix for state in states[step : step + 2])
        np.testing.assert_array_equal((after - before).sum(axis=1), counted)


# --- whole runs ----------------------------------------------------------------------------------


EVERYTHING = {
    "freeze.vit": 0.75,
    "optim.name": "adamw",
    "optim.schedule": "cosine",
    "optim.warmup_epochs": 0.5,
    "optim.clip_norm": 1.0,
    "optim.factors.head": 10.0,
    "optim.vit_layer_decay": 0.75,
    "loss.label_smoothing": 0.1,
    "data.sampling": "balanced",
    "mixing.mixup_alpha": 0.2,
    "mixing.cutmix_alpha": 1.0,
    "ema_decay": 0.9,
}


def saved(workdir):
    """What the last checkpoint holds."""
    checkpoints = Checkpoints(workdir / "checkpoints", read_only=True)
    restored = checkpoints._manager.restore(checkpoints.latest_step())
    checkpoints.close()
    return dict(restored.items())


@pytest.fixture
def two_branches(monkeypatch):
    monkeypatch.setattr(train, "build_model", lambda *_: TwoBranches())


@pytest.mark.usefixtures("two_branches", "undrawn")
def test_a_run_with_everything_on_goes_on_across_the_thaw_bit_for_bit(
    tmp_path, phantoms, monkeypatch
):
    """Stopped a step before the thaw, against a run in one piece."""
    monkeypatch.setattr(evidence, "write_evidence", lambda *_: {})
    config = make_config(phantoms, **EVERYTHING)
    train_and_evaluate(config, tmp_path / "whole")
    first = create_state(
        TwoBranches(), optax.identity(), make_mesh(), seed=0, image_size=16, average=False
    )
    parted = tmp_path / "parted"
    with monkeypatch.context() as patch:
        stop_after(patch, 1)  # is obeyed three steps later
        with pytest.raises(Stopped):
            train_and_evaluate(config, parted)
    stopped = saved(parted)
    assert stopped["training"]["step"] == 4  # 0.75 epochs are 4.5 steps: the sixth one is free
    for kind in ("params", "batch_stats"):
        for tree in (stopped["weights"], stopped["average"]):
            assert bits(tree[kind]["vit"]) == bits(getattr(first, kind)["vit"])
            assert bits(tree[kind]["resnet18"]) != bits(getattr(first, kind)["resnet18"])
    train_and_evaluate(config, parted)
    whole = saved(tmp_path / "whole")
    assert bits(saved(parted)) == bits(whole)
    for kind in ("params", "batch_stats"):
        assert bits(whole["weights"][kind]["vit"]) != bits(getattr(first, kind)["vit"])


@pytest.mark.usefixtures("two_branches", "undrawn")
def test_evaluation_applies_the_average(tmp_path, phantoms):
    config = make_config(
        phantoms, **{"ema_decay": 0.9, "data.copies": 1, "freeze.vit": -1.0, "freeze.resnet18": 1.0}
    )
    train_and_evaluate(config, tmp_path)
    restored = saved(tmp_path)
    rows = Predictions.read_csv(tmp_path / "predictions_test.csv")
    parts = train.load_parts(Settings.from_config(config).data, seed=0, workdir=tmp_path)
    store, samples = parts["test"].store, parts["test"].samples
    images = np.stack([store.view(row) for row in samples.image])
    found = {}
    for name in ("average", "weights"):
        output = TwoBranches().apply(restored[name], images, train=False)
        found[name] = np.asarray(jax.nn.softmax(output.logits))
    np.testing.assert_allclose(rows.probabilities, found["average"], atol=1e-5)
    assert np.abs(rows.probabilities - found["weights"]).max() > 1e-3
    # The learning curves are measured with it too.
    line = read_history(tmp_path)[-1]
    truth = found["average"][np.arange(len(samples)), samples.label]
    assert line["part"] == "test"
    assert line["loss"] == pytest.approx(-np.log(truth).mean(), rel=1e-4)


@pytest.mark.usefixtures("two_branches", "undrawn")
def test_class_weights_are_those_of_the_training_part(tmp_path, phantoms, monkeypatch):
    seen = []

    def spy(self, state, step_fn, part):
        seen.append((step_fn.keywords["loss"], part.samples.label))
        raise Stopped(signal.SIGTERM, 0)

    monkeypatch.setattr(loop.Loop, "train", spy)
    config = make_config(phantoms, **{"loss.class_weights": "balanced"})
    with pytest.raises(Stopped):
        train_and_evaluate(config, tmp_path)
    loss, labels = seen[0]
    wanted = compute_class_weight("balanced", classes=np.arange(3), y=labels)
    np.testing.assert_allclose(loss.class_weights, wanted)
