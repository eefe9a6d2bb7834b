"""The loop over optimizer steps: what is measured, saved and watched while a run trains."""

import collections
import contextlib
import dataclasses
import functools
import json
import logging
import math
import signal
import threading
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from pathlib import Path
from types import FrameType

import jax
import numpy as np
import optax
from jax.sharding import Mesh

from jaxbusi.checkpoints import Checkpoints
from jaxbusi.data import pipeline
from jaxbusi.data.parts import Part
from jaxbusi.errors import Stopped, UserError
from jaxbusi.evaluate import Evaluator
from jaxbusi.features import Features
from jaxbusi.logs import Pace, Progress, RunLog, read_history
from jaxbusi.optim import FOR_GOOD
from jaxbusi.settings import Settings
from jaxbusi.state import Metrics, TrainState, batch_sharding, replicated
from jaxbusi.steps import Batch, StepReport

StepFn = Callable[..., tuple[TrainState, StepReport]]
"""Of state and batch, and by name of the tuple of branches that are `frozen`."""

# How many steps the host runs ahead of the newest loss it has looked at: enough to keep the device
# busy, few enough that a broken step is found at once.
_AHEAD = 2


@dataclasses.dataclass(frozen=True)
class Durations:
    """Every duration of a run in optimizer steps, resolved once from epochs.

    Batches cross the borders of epochs, so that with the paper's 3120 copies and batches of 64 an
    epoch is 48.75 steps; whatever is due at the end of an epoch happens at the next whole step.

    Attributes:
      total: steps of the whole run.
      decay: steps between two stairs of the learning rate.
      warmup: steps before the learning rate's maximum, where it warms up.
      thaw: of each branch that starts frozen, the steps taken when it begins to learn, or FOR_GOOD.
      evaluate: after these steps a point of the learning curves is measured.
      save: after these steps a checkpoint is saved.
      steps_per_epoch: to say what epoch a step is in.
    """

    total: int
    decay: int
    warmup: int
    thaw: Mapping[str, int]
    evaluate: frozenset[int]
    save: frozenset[int]
    steps_per_epoch: float

    @classmethod
    def resolve(cls, settings: Settings, samples: int) -> "Durations":
        """Resolves the durations for a training part of `samples` copies."""
        per_epoch = samples / settings.batch_size
        total = math.ceil(settings.num_epochs * per_epoch)

        def every(epochs: float) -> frozenset[int]:
            count = math.floor(settings.num_epochs / epochs)
            due = (math.ceil(i * epochs * per_epoch) for i in range(1, count + 1))
            return frozenset({*due, total})

        def thaw(epochs: float) -> int:
            return FOR_GOOD if epochs == FOR_GOOD else math.ceil(epochs * per_epoch)

        frozen = dataclasses.asdict(settings.freeze)
        return cls(
            total=total,
            decay=math.ceil(settings.optim.decay_every * per_epoch),
            warmup=math.ceil(settings.optim.warmup_epochs * per_epoch),
            thaw={name: thaw(frozen[name]) for name in settings.model.branches if frozen[name]},
            evaluate=every(settings.eval_every_epochs),
            save=every(settings.checkpoint.every_epochs),
            steps_per_epoch=per_epoch,
        )

    def frozen(self, step: int) -> tuple[str, ...]:
        """Returns the branches that do not learn when `step` steps were taken."""
        return tuple(name for name, at in self.thaw.items() if at == FOR_GOOD or step < at)


class StopSignals:
    """Turns SIGTERM and SIGINT into a wish to stop that the loop obeys after a step.

    A second SIGINT ends the process at once, as if nobody listened. SIGTERM may come again while
    the state is saved: at a time limit SLURM sends it twice within a second, once through srun.
    """

    def __init__(self) -> None:
        self.received: int | None = None

    @contextlib.contextmanager
    def watch(self) -> Iterator[None]:
        """Listens while the block runs; outside the main thread, where Python forbids it, not."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        watched = (signal.SIGTERM, signal.SIGINT)
        before = {number: signal.signal(number, self._receive) for number in watched}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _receive(self, number: int, _: FrameType | None) -> None:
        self.received = number
        if number == signal.SIGINT:
            signal.signal(number, signal.SIG_DFL)


@dataclasses.dataclass
class Loop:
    """One run's training loop.

    Attributes:
      settings: of the run.
      workdir: where the log goes.
      mesh: the devices.
      durations: when things are due.
      schedule: the learning rate of a step, for the log.
      checkpoints: where the state is saved.
      evaluator: measures the parts that are not trained on.
      features: of branches that are frozen for good, or None.
    """

    settings: Settings
    workdir: Path
    mesh: Mesh
    durations: Durations
    schedule: optax.Schedule
    checkpoints: Checkpoints
    evaluator: Evaluator
    features: Features | None = None

    def train(self, state: TrainState, step_fn: StepFn, part: Part) -> TrainState:
        """Takes the steps that are left.

        Args:
          state: donated; its step says where the data goes on.
          step_fn: `steps.train_step` with its keyword arguments bound but `frozen`.
          part: the training part.

        Returns:
          The last state, whose checkpoint is under way.

        Raises:
          UserError: a loss is not finite, or something could not be read or written.
          Stopped: a signal arrived; the state is saved.
        """
        start = int(state.step)
        losses = self._validation_losses(start)
        if start >= self.durations.total or self._runs_dry(losses):
            return state
        compiled = functools.cache(functools.partial(self._compile, step_fn))
        signals = StopSignals()
        with (
            signals.watch(),
            contextlib.closing(self._log(start)) as log,
            contextlib.closing(self._bar(start)) as bar,
            contextlib.closing(self._batches(part, start)) as batches,
        ):
            pending: collections.deque[tuple[int, np.ndarray, StepReport]] = collections.deque()
            pace = Pace(start)
            for step, (host, device) in enumerate(pace.count(batches), start + 1):
                state, report = compiled(self.durations.frozen(step - 1))(state, device)
                if step == 1 and host["image"].size:
                    log.images("augmented_batch", host["image"][:16], step)
                pending.append((step, host["index"], report))
                stop = signals.received
                measure, save = step in self.durations.evaluate, step in self.durations.save
                keep = 0 if measure or save or stop else _AHEAD
                self._check(pending, bar, part, keep=keep)
                validation_loss = None
                if measure:
                    validation_loss = self._measure(log, state, step, pace)
                    losses.append(validation_loss)
                    state = dataclasses.replace(state, metrics=self._empty_metrics())
                    pace.restart(step)
                ends = measure and self._runs_dry(losses)
                if save or stop or ends:
                    self.checkpoints.save(state, validation_loss=validation_loss)
                if stop:
                    self.checkpoints.wait()
                    raise Stopped(stop, step)
                if ends:
                    logging.info(
                        "training ends at step %d of %d: the validation loss of the last %d "
                        "evaluations was no new lowest",
                        *(step, self.durations.total, self.settings.patience),
                    )
                    break
        return state

    def _validation_losses(self, start: int) -> list[float | None]:
        """Those of the evaluations up to a step, in their order."""
        lines = read_history(self.workdir)
        return [
            line["loss"] for line in lines if line["part"] == "validation" and line["step"] <= start
        ]

    def _runs_dry(self, losses: Sequence[float | None]) -> bool:
        """Whether `config.patience` ends training after evaluations with these losses."""
        known = [math.inf if loss is None else loss for loss in losses]
        if not self.settings.patience or not known:
            return False
        since = len(known) - 1 - known.index(min(known))
        return since >= self.settings.patience

    def _compile(self, step_fn: StepFn, frozen: tuple[str, ...]) -> StepFn:
        """The step of the phase in which these branches are frozen.

        It is a program of its own, in which a frozen branch costs no more than its forward pass.
        """
        whole, sharded = replicated(self.mesh), batch_sharding(self.mesh)
        return jax.jit(
            functools.partial(step_fn, frozen=frozen),
            in_shardings=(whole, sharded),
            out_shardings=(whole, whole),
            donate_argnums=0,
        )

    def _log(self, start: int) -> RunLog:
        return RunLog(self.workdir, resume_step=start, active=jax.process_index() == 0)

    def _bar(self, start: int) -> Progress:
        return Progress(
            total=self.durations.total,
            start=start,
            batch_size=self.settings.batch_size,
            active=jax.process_index() == 0,
        )

    @functools.cached_property
    def _empty_metrics(self) -> Callable[[], Metrics]:
        return jax.jit(Metrics.empty, out_shardings=replicated(self.mesh))

    def _batches(
        self, part: Part, start: int
    ) -> Generator[tuple[dict[str, np.ndarray], Batch], None, None]:
        known = self.features.branches if self.features is not None else frozenset()
        batches = pipeline.train_batches(
            part.store,
            part.samples,
            self.settings.data.augment,
            seed=self.settings.seed,
            batch_size=self.settings.batch_size,
            start_step=start,
            balanced=self.settings.data.sampling == "balanced",
            views=self.settings.data.views,
            workers=self.settings.data.workers,
            shard=(jax.process_index(), jax.process_count()),
            images=not known.issuperset(self.settings.model.branches),
        )
        if self.features is not None:
            batches = self.features.attach(batches)
        on_device = pipeline.to_device(batches, self.mesh)
        for _ in range(start, self.durations.total):
            yield next(on_device)

    def _check(
        self,
        pending: collections.deque[tuple[int, np.ndarray, StepReport]],
        bar: Progress,
        part: Part,
        *,
        keep: int,
    ) -> None:
        """Looks at the losses of all but the newest `keep` steps; a non-finite one ends the run."""
        while len(pending) > keep:
            step, index, report = pending.popleft()
            loss = float(jax.device_get(report.loss))
            rate = float(self.schedule(step - 1))
            if not math.isfinite(loss):
                raise UserError(
                    f"the loss of step {step} is {loss} (learning rate {rate:g}, images "
                    f"{_broken_images(part, index, report)}); the run stopped and its checkpoints "
                    "are intact; lower config.optim.learning_rate or look at these images"
                )
            bar.update(step=step, loss=loss, learning_rate=rate)

    def _measure(self, log: RunLog, state: TrainState, step: int, pace: Pace) -> float | None:
        """Writes a point of the learning curves; returns the validation loss where there is one."""
        speed = pace.summary(step, self.settings.batch_size)
        epoch = step / self.durations.steps_per_epoch
        values = jax.device_get(state.metrics).summary()
        values["learning_rate"] = float(self.schedule(step - 1))
        values |= speed
        log.write(step=step, epoch=epoch, part="train", values=values)
        validation_loss = None
        for part in self.evaluator.evaluated:
            values = self.evaluator.measure(state.inference_variables(), part).summary()
            log.write(step=step, epoch=epoch, part=part, values=values)
            logging.info("epoch %.2f, %s: %s", epoch, part, json.dumps(values))
            if part == "validation":
                validation_loss = values["loss"]
        return validation_loss


def _broken_images(part: Part, index: np.ndarray, report: StepReport) -> str:
    """Names this process's images whose own loss is not finite, or all where none is."""
    first = jax.process_index() * len(index)
    losses = jax.device_get(report.example_loss)[first : first + len(index)]
    broken = index[~np.isfinite(losses)]
    rows = broken if len(broken) else index
    names = [part.store.records[part.samples.image[row]].name for row in rows[:8]]
    more = f" and {len(rows) - 8} more" if len(rows) > 8 else ""
    return ", ".join(names) + more
