"""The sanity check of the maps: weights are drawn at random, and the maps have to change.

A map that stays the same shows the picture and not what the model has learnt of it (Adebayo et al.,
2018). First the head alone is random, then all weights; the class that is explained stays the
answer of the trained model. Rollout does not read the head: under a random head it cannot change.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import optax
from jax.sharding import Mesh
from scipy import stats

from jaxbusi.explain.averages import mean_over, ratio_intervals
from jaxbusi.models.fusion import Classifier
from jaxbusi.state import Tree, create_state

LEVELS: dict[str, str] = {"head": "the head", "all": "all weights"}
"""What is random, by key."""

_OTHER = 1_000_003  # To the run's seed.


def random_weights(
    model: Classifier, variables: Tree, mesh: Mesh, seed: int, side: int
) -> dict[str, Tree]:
    """Weights of each of `LEVELS`.

    Args:
      model: a `Classifier`.
      variables: the trained weights.
      mesh: where the weights go.
      seed: of the run. The draw is another one than the run began with, since what training has
        left as it was would not be random then.
      side: of the model's square input, pixels.
    """
    drawn = create_state(
        model, optax.identity(), mesh, seed=seed + _OTHER, image_size=side, average=False
    ).variables()
    head = {**variables["params"], "head": drawn["params"]["head"]}
    return {"head": {**variables, "params": head}, "all": drawn}


def rank_correlations(maps: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Spearman's rank correlation of each map with its counterpart.

    Args:
      maps: f32[N, g, g].
      others: of the same shape.

    Returns:
      float64[N], -1 to 1; NaN where either is even, without any ranks.
    """
    found = np.full(len(maps), np.nan)
    for row, (one, other) in enumerate(zip(maps, others, strict=True)):
        if np.ptp(one) > 0 and np.ptp(other) > 0:
            found[row] = stats.spearmanr(one.ravel(), other.ravel()).statistic
    return found


def summarize(
    correlations: Mapping[str, Mapping[str, np.ndarray]],
    label: np.ndarray,
    units: Sequence[str],
    *,
    seed: int,
) -> dict[str, Any]:
    """Mean rank correlations by level and map, {value, low, high, exact}, as explain.json has them.

    Args:
      correlations: by level and map, of `rank_correlations`.
      label: int[N], the classes, or the answers where they are not known.
      units: N names of what is independent.
      seed: of the bootstrap.
    """
    return {
        level: ratio_intervals(
            {name: mean_over(values) for name, values in of_maps.items()}, label, units, seed=seed
        )
        for level, of_maps in correlations.items()
    }
