"""Whether the probabilities can be taken at their word: 90 % should be right nine times in ten.

*Brier score* (Brier, Monthly Weather Review 78, 1950), his own definition for several classes: the
squared differences between the probabilities and the truth (1 for the true class, 0 for the
others), summed over the classes and averaged over the images. 0 is perfect, 2 the worst; a third
for each of three classes gives 2/3. For two classes it is twice what many books call by that name.

*Expected calibration error* (Naeini et al., AAAI 2015; Guo et al., ICML 2017): images are put into
15 bins of equal width by the probability of their answer (the top probability), a bin holding its
upper edge and not its lower one; in each bin the share of right answers is compared with the mean
probability; the gaps, without sign, are averaged over the images. 0 is perfect. It is never quite
reached: on few images chance alone leaves a gap in every bin, and a bootstrap adds to that, so that
the intervals lean upwards.

*Temperature scaling* (Guo et al., 2017) divides the logits, here the logarithms of the
probabilities, which differ from them by a constant that the softmax ignores, by one number T. It
changes no answer. T above 1 says that the model was too sure. T is fitted on the validation part
alone, never on what it is judged on.
"""

import dataclasses
from typing import Any

import numpy as np
from scipy import optimize, special

from jaxbusi.evaluation import intervals
from jaxbusi.evaluation.predictions import Predictions

BINS = 15
"""Of equal width over 0..1."""

TEMPERATURES = (0.05, 20.0)
"""Where the temperature is looked for."""

_LEAST = 1e-12  # A probability that was rounded to zero would have no logarithm.


def calibration(
    predictions: Predictions,
    *,
    resamples: int = intervals.RESAMPLES,
    seed: int = 0,
) -> dict[str, Any]:
    """How far the probabilities can be taken at their word.

    Args:
      predictions: N rows.
      resamples: of the bootstrap.
      seed: of the bootstrap.

    Returns:
      brier: an `intervals.Interval`, 0..2.
      ece: an `intervals.Interval`, 0..1.
        Neither has an exact interval to fall back on: where all resamples agree, as those of one
        image do, both ends are the value.
      bins: those that hold images, a list of {low, high: edges of the top probability, count,
        confidence: mean top probability, accuracy: share of right answers}.
    """
    values = intervals.resampled(
        predictions.label,
        predictions.source,
        lambda weights: weighted_errors(predictions, weights),
        resamples=resamples,
        seed=seed,
    )
    plain = weighted_errors(predictions, np.ones((1, len(predictions))))
    return {
        **{key: intervals.percentile(plain[key].item(), values[key]) for key in plain},
        "bins": bins(predictions),
    }


def weighted_errors(predictions: Predictions, weights: np.ndarray) -> dict[str, np.ndarray]:
    """Brier score and expected calibration error (see the module) for R weightings at once.

    Args:
      predictions: N rows.
      weights: float64[R, N], how often each row counts.

    Returns:
      brier: float64[R], 0..2; ece: float64[R], 0..1. NaN where nothing has weight.
    """
    truth = np.eye(predictions.probabilities.shape[1])[predictions.label]
    squares = ((predictions.probabilities - truth) ** 2).sum(axis=1)
    gaps = (predictions.predicted == predictions.label) - predictions.probabilities.max(axis=1)
    # The gap of a bin, times its weight, is the sum of the gaps of its images.
    sums = weights @ (np.eye(BINS)[_bin(predictions)] * gaps[:, None])
    with np.errstate(invalid="ignore"):
        total = weights.sum(axis=1)
        return {"brier": weights @ squares / total, "ece": np.abs(sums).sum(axis=1) / total}


def bins(predictions: Predictions) -> list[dict[str, Any]]:
    """The bins that hold images, as `calibration` describes them."""
    confidence, bin_of = predictions.probabilities.max(axis=1), _bin(predictions)
    right = predictions.predicted == predictions.label
    return [
        {
            "low": number / BINS,
            "high": (number + 1) / BINS,
            "count": int((bin_of == number).sum()),
            "confidence": float(confidence[bin_of == number].mean()),
            "accuracy": float(right[bin_of == number].mean()),
        }
        for number in np.unique(bin_of).tolist()
    ]


def _bin(predictions: Predictions) -> np.ndarray:
    """int64[N], 0..BINS-1: the bin of the top probability, upper edges included."""
    edges = np.linspace(0, 1, BINS + 1)
    return np.searchsorted(edges[1:-1], predictions.probabilities.max(axis=1), side="left")


def fit_temperature(predictions: Predictions) -> float:
    """The temperature that makes the true classes most probable (least mean log loss).

    The log loss is convex in 1/T, so that there is one best T; where the answers are all right it
    falls without end and T ends at the edge of `TEMPERATURES`.

    Args:
      predictions: of the validation part, N rows.

    Returns:
      T, within `TEMPERATURES`; 1 leaves the probabilities as they are.
    """
    logs = np.log(np.maximum(predictions.probabilities, _LEAST))
    rows = np.arange(len(predictions))

    def loss(log_temperature: float) -> float:
        scaled = special.log_softmax(logs / np.exp(log_temperature), axis=1)
        return float(-scaled[rows, predictions.label].mean())

    low, high = np.log(TEMPERATURES)
    found = optimize.minimize_scalar(
        loss, bounds=(low, high), method="bounded", options={"xatol": 1e-6}
    )
    # The search never touches its bounds; a loss that falls up to one, or is rounded to nothing
    # before, means the bound itself.
    candidates = (float(low), float(high), float(found.x))
    return float(np.exp(min(candidates, key=loss)))


def at_edge(temperature: float) -> bool:
    """Whether the fit found no bottom and stopped at the edge of `TEMPERATURES`."""
    return bool(np.isclose(temperature, TEMPERATURES, rtol=1e-3).any())


def scale(predictions: Predictions, temperature: float) -> Predictions:
    """The same rows with probabilities at another temperature; the answers stay."""
    logs = np.log(np.maximum(predictions.probabilities, _LEAST))
    return dataclasses.replace(
        predictions, probabilities=special.softmax(logs / temperature, axis=1)
    )
