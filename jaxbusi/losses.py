"""What training minimises: cross-entropy with smoothed labels and weighted classes."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax


@dataclasses.dataclass(frozen=True)
class CrossEntropy:
    """`torch.nn.CrossEntropyLoss(weight=class_weights, label_smoothing=label_smoothing)`.

    Of logits with log-probabilities p, a target t over the C classes and weights w, an example
    loses -Σ w[c] · ((1 - s) · t[c] + s / C) · p[c]. The mean over a batch divides the sum by
    Σ w[c] · t[c] of all its examples, and so by their number where no class weighs more.

    For targets that are shares torch divides by the number of examples in either case; here the
    division is the same for a label and for the target that gives it the whole share.

    Attributes:
      label_smoothing: s, in [0, 1) (arXiv:1512.00567).
      class_weights: w, one number for each class, or None for 1.
    """

    label_smoothing: float = 0.0
    class_weights: tuple[float, ...] | None = None

    def per_example(self, logits: jax.Array, targets: jax.Array) -> jax.Array:
        """Returns the losses f32[B] of logits f32[B, C].

        Args:
          logits: f32[B, C].
          targets: int32[B] labels, or f32[B, C] shares that sum to 1.
        """
        if targets.ndim == 1:
            if not self.label_smoothing and self.class_weights is None:
                return optax.softmax_cross_entropy_with_integer_labels(logits, targets)
            targets = jax.nn.one_hot(targets, logits.shape[-1])
        targets = optax.smooth_labels(targets, self.label_smoothing)
        if self.class_weights is not None:
            targets *= self._weights()[None, :]
        return optax.softmax_cross_entropy(logits, targets)

    def mean_weight(self, targets: jax.Array) -> jax.Array:
        """Returns f32[]: the mean loss of a batch is the plain mean of its losses over this.

        Args:
          targets: as for `per_example`, of the whole batch.
        """
        if self.class_weights is None:
            return jnp.float32(1)
        weights = self._weights()
        return jnp.mean(weights[targets] if targets.ndim == 1 else targets @ weights)

    def _weights(self) -> jax.Array:
        return jnp.asarray(self.class_weights, jnp.float32)


PLAIN = CrossEntropy()
"""The paper's: every class weighs the same, labels are hard."""


def balanced_weights(labels: np.ndarray, num_classes: int) -> tuple[float, ...]:
    """Returns N / (C' · count) for each class: together the examples of each weigh the same.

    This is `sklearn.utils.class_weight.compute_class_weight('balanced')`; C' is the number of
    classes that occur, and one that does not has the weight 0.

    Args:
      labels: int[N], each in 0 … num_classes - 1.
      num_classes: how many weights to return.
    """
    counts = np.bincount(labels, minlength=num_classes)
    present = np.count_nonzero(counts)
    return tuple(float(len(labels) / (present * count)) if count else 0.0 for count in counts)
