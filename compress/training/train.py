"""One training loop for all networks: base, predictor, trials, members, fine-tuning on crops.

What is learnt is a `Task`; how is a `Recipe`. An epoch's random numbers depend only on seed and
epoch, and a checkpoint is written after every epoch that is long beside the writing and, in long
ones, every few minutes: a run that was killed goes on from there and ends with the same weights,
bit for bit, as one that was not.
Under torchrun all processes train the one network together (`ddp`).
"""

from __future__ import annotations

import math
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Generator, Tensor, nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from edgecompress import events
from edgecompress.errors import InputError, UsageError
from edgecompress.files import sha256_json

from ..data.augment import ALL
from ..data.loader import ahead
from ..machine import ddp
from ..machine.devices import chosen_device, cores, device_of, enough_memory, mixed_precision
from ..recipe import Recipe, learning_rate, side_share
from .checkpoint import Keeper, read_checkpoint
from .late import Late

SAVE_EVERY = 600.0
"""Seconds between checkpoints within an epoch."""
RANKS_APART = 1_000_000_007
"""Between the seeds of two processes' dropout."""


class Drawn(Protocol):
    """Inputs of a step, as the CPU has prepared them."""

    def to(self, device: torch.device) -> Drawn:
        """The same on a device."""
        ...


class Task(Protocol):
    """What a network learns: batches, a loss, and a measure on photos held out."""

    @property
    def size(self) -> int:
        """How many photos an epoch has."""
        ...

    @property
    def resident(self) -> bool:
        """Whether what a step sees is made on the GPU."""
        ...

    def draw(
        self, indices: Tensor, generator: Generator, share: float = 1.0, part: slice = ALL
    ) -> Callable[[], Any]:
        """What a step sees of some photos: all that is random is drawn now, and what is given
        makes a `Drawn` of it, maybe in another thread and while another step is under way.

        Args:
            share: of the input side; a task whose networks take one side only ignores it.
            part: of the photos that is this process's; all random numbers are drawn nonetheless.
        """
        ...

    def ready(self, drawn: Any) -> tuple[Tensor, Any]:
        """Network inputs, and what the loss needs beside the outputs; where `drawn` lies."""
        ...

    def loss(self, outputs: Tensor, wanted: Any, recipe: Recipe) -> Tensor:
        """A scalar, the mean over photos."""
        ...

    def measure(self, network: nn.Module) -> float:
        """Larger is better (accuracy, mean IoU); the network is in evaluation mode."""
        ...


@dataclass(frozen=True)
class Training:
    """What came out.

    Attributes:
        losses: mean training loss of each epoch.
        measures: `Task.measure` after each epoch.
        seconds: time spent, of all runs together.
    """

    losses: tuple[float, ...]
    measures: tuple[float, ...]
    seconds: float


def train(
    network: nn.Module,
    task: Task,
    recipe: Recipe,
    checkpoint: Path,
    label: str,
    *,
    identity: Any = None,
    save_every: float = SAVE_EVERY,
) -> Training:
    """Train in place, on this process's device; the network ends in evaluation mode, where it was.

    Args:
        checkpoint: written after an epoch, unless that would take much of the time. One of the same
            recipe and identity is gone on from; another is overwritten.
        label: for progress events.
        identity: JSON-able; what else decides the result (network, photos).
        save_every: seconds between checkpoints within an epoch.

    Raises:
        UsageError: the loss is not finite, there are too many processes for a batch, or too little
            memory on a GPU.
        EdgeCompressError: another process of this training ended.
    """
    fingerprint = sha256_json([recipe.to_json(), identity, label])
    before = device_of(network)
    device = chosen_device() if before.type == "cpu" else before
    with ddp.joined() as own, enough_memory(label):
        _require_photos(task.size, recipe, own)
        # A step of ResNet-18 takes 0.7 of the time on a CPU with channels innermost.
        network.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        run = _Run(network, task, recipe, own, device, label)
        within = run.resume(ddp.decided(lambda: read_checkpoint(checkpoint, fingerprint)))
        run.share()
        keeper = Keeper(checkpoint, fingerprint)
        with events.task(label, recipe.epochs * run.steps) as shown:
            shown.update(len(run.losses) * run.steps + (within["step"] if within else 0))
            while len(run.losses) < recipe.epochs:
                for place in run.epoch(shown, within, save_every):
                    if own.first and (place is not None or keeper.pays):
                        keeper.keep(run.state(place))
                within = None
        run.finish()
    network.to(before, memory_format=torch.contiguous_format)  # type: ignore[call-overload]
    network.eval()
    return Training(tuple(run.losses), tuple(run.measures), run.spent)


def _require_photos(size: int, recipe: Recipe, own: ddp.Ranks) -> None:
    least = 2 * own.count  # BatchNorm needs two photos
    if own.count == 1 and size < least:
        raise InputError(f"{size} photos to train on that can be read: two are needed at least")
    if own.count > 1 and min(size, recipe.batch) < least:
        raise UsageError(
            f"{own.count} processes for batches of {min(size, recipe.batch)} photos",
            f"start fewer (torchrun --nproc-per-node), or let [compress.train] batch be {least}",
        )


Within = dict[str, Any]
"""Where in an epoch a checkpoint was written: step, sum of the losses, states of generators."""


@dataclass
class _Run:
    """A training under way."""

    network: nn.Module
    task: Task
    recipe: Recipe
    own: ddp.Ranks
    device: torch.device
    label: str
    losses: list[float] = field(default_factory=list)
    measures: list[float] = field(default_factory=list)
    spent: float = 0.0

    def __post_init__(self) -> None:
        self.steps = math.ceil(self.task.size / self.recipe.batch)
        self.optimizer = _optimizer(self.network, self.recipe, fused=self.device.type == "cuda")
        self.average = _average(self.network, self.recipe) if self.own.first else None
        self.shell = self.network
        # Processes of one training tell each other of every step before they take the next.
        self.late = 1 if self.device.type == "cuda" and self.own.count == 1 else 0
        self.told: deque[Late] = deque()
        self.loss = math.nan

    def resume(self, state: dict[str, Any] | None) -> Within | None:
        """Take up what a checkpoint holds."""
        if state is None:
            return None
        self.network.load_state_dict(state["network"])
        self.optimizer.load_state_dict(state["optimizer"])
        if self.average is not None:
            self.average.load_state_dict(state["average"])
        self.losses = list(state["losses"])
        self.measures = list(state["measures"])
        self.spent = state["seconds"]
        return state.get("within")

    def share(self) -> None:
        """Begin to train with the other processes, from the first one's weights."""
        self.shell = ddp.averaging(self.network)

    def state(self, within: Within | None) -> dict[str, Any]:
        """What a checkpoint holds."""
        return {
            "network": self.network.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "losses": self.losses,
            "measures": self.measures,
            "seconds": self.spent,
            "average": None if self.average is None else self.average.state_dict(),
            "within": within,
        }

    def epoch(
        self, shown: events.Task, within: Within | None, save_every: float
    ) -> Iterator[Within | None]:
        """Train one epoch and measure; gives a place to save at now and then, and None at its
        end."""
        recipe, number = self.recipe, len(self.losses)
        self.network.train()
        start = saved = time.monotonic()
        before = self.spent
        # Dropout draws from the global generator: it is seeded here and put back afterwards.
        with torch.random.fork_rng(devices=[] if self.device.type == "cpu" else [self.device]):
            seed = recipe.seed * 100_003 + number
            torch.manual_seed(seed + RANKS_APART * self.own.rank)
            generator = Generator().manual_seed(seed)
            batches = _batches(self.task.size, recipe.batch, generator, 2 * self.own.count)
            first, total = 0, 0.0
            if within is not None:
                first, total = within["step"], within["total"]
                generator.set_state(within["generator"])
                self._set_random(within["random"])
            for step, (indices, drawn, after) in enumerate(
                self._drawn(batches[first:], generator), first
            ):
                rate = learning_rate(recipe, number + step / self.steps)
                for group in self.optimizer.param_groups:
                    group["lr"] = rate
                overdue = time.monotonic() - saved >= save_every
                due = self.step(drawn, len(indices), overdue)
                last = step + 1 == len(batches)
                total += self.read(0 if due or last else self.late)
                pace = (time.monotonic() - start) / (step + 1 - first)
                left = pace * ((recipe.epochs - number) * self.steps - step - 1)
                loss = "" if math.isnan(self.loss) else f", loss {self.loss:.3f}"
                text = f"epoch {number + 1}/{recipe.epochs}{loss}, {_clock(left)} left"
                if due and not last:
                    self.spent = before + time.monotonic() - start
                    random = ddp.gathered(self._random())
                    yield {"step": step + 1, "total": total, "generator": after, "random": random}
                    saved = time.monotonic()
                shown.advance(1, text)
        self.losses.append(total / self.task.size)
        self.measures.append(ddp.decided(self.measure))
        self.spent = before + time.monotonic() - start
        yield None

    def _drawn(
        self, batches: list[Tensor], generator: Generator
    ) -> Iterator[tuple[Tensor, Any, Tensor]]:
        """Batches in order, with the generator's state after each."""
        share = side_share(self.recipe, len(self.losses))

        def makers() -> Iterator[Callable[[], tuple[Tensor, Any, Tensor]]]:
            for indices in batches:
                part = ALL if self.own.count == 1 else self.own.part(len(indices))
                make = self.task.draw(indices, generator, share, part)
                yield partial(_made, indices, make, generator.get_state())

        if self.device.type == "cpu" or self.task.resident:
            # The next batch would take its cores from the step that is under way. A GPU makes it
            # while this process goes on: threads would only keep it from the interpreter.
            return (make() for make in makers())
        return ahead(makers(), cores())

    def step(self, drawn: Any, photos: int, overdue: bool) -> bool:
        """One step; its loss is added to those that `read` reads.

        Args:
            photos: of all processes' parts together.
            overdue: a checkpoint is, by this process's clock.

        Returns:
            Whether the first process's clock says to save.
        """
        with mixed_precision(self.recipe.precision, self.device):
            inputs, wanted = self.task.ready(drawn.to(self.device))
        with mixed_precision(self.recipe.precision, self.device, inputs.shape[-1]):
            outputs = self.shell(inputs)
        loss = self.task.loss(outputs.float(), wanted, self.recipe)
        mean = loss.detach()
        if self.own.count > 1:
            share = len(inputs) / photos
            own = [mean.item() * share, float(overdue and self.own.first)]
            sums = ddp.total(torch.tensor(own, dtype=torch.float64))
            mean, overdue = sums[0], bool(sums[1])
            # Gradients are averaged over processes, whose parts may differ by a photo.
            loss = loss * (share * self.own.count)
        self.told.append(Late.of(mean, photos))
        self.optimizer.zero_grad()
        loss.backward()
        if self.recipe.clip:
            nn.utils.clip_grad_norm_(self.network.parameters(), self.recipe.clip)
        self.optimizer.step()
        if self.average is not None:
            self.average.update_parameters(self.network)
        return overdue

    def read(self, late: int) -> float:
        """The sum of the losses of photos, of all steps told but the last `late`.

        Raises:
            UsageError: one of them is not finite.
        """
        total = 0.0
        while len(self.told) > late:
            told = self.told.popleft()
            self.loss = told.read()
            if not math.isfinite(self.loss):
                raise UsageError(
                    f"{self.label}: the loss is {self.loss} in epoch {len(self.losses) + 1}",
                    f"lower the learning rate (it was {self.recipe.rate:g}) and run again",
                )
            total += self.loss * told.photos
        return total

    def measure(self) -> float:
        """On the photos held out, in the precision of the steps; of the averaged network where
        there is one."""
        judged = self.network if self.average is None else self.average.module
        judged.eval()
        with torch.inference_mode(), mixed_precision(self.recipe.precision, self.device):
            return self.task.measure(judged)

    def finish(self) -> None:
        """The network that is kept, in all processes."""
        if self.average is not None:
            self.network.load_state_dict(self.average.module.state_dict())
        self.shell = self.network
        ddp.spread(self.network)

    def _random(self) -> list[Tensor]:
        own = [torch.get_rng_state()]
        return own if self.device.type == "cpu" else [*own, torch.cuda.get_rng_state(self.device)]

    def _set_random(self, states: list[list[Tensor]]) -> None:
        if len(states) != self.own.count:
            return  # it goes on with other processes, and other random numbers
        own = states[self.own.rank]
        torch.set_rng_state(own[0])
        if self.device.type == "cuda" and len(own) > 1:
            torch.cuda.set_rng_state(own[1], self.device)


def _made(indices: Tensor, make: Callable[[], Any], state: Tensor) -> tuple[Tensor, Any, Tensor]:
    return indices, make(), state


def _clock(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def _batches(size: int, batch: int, generator: Generator, least: int) -> list[Tensor]:
    """A random order in batches. A last batch of fewer than `least` photos joins the one before:
    BatchNorm needs two in each process."""
    order = torch.randperm(size, generator=generator)
    parts = list(order.split(batch))
    if len(parts) > 1 and len(parts[-1]) < least:
        parts[-2:] = [torch.cat(parts[-2:])]
    return parts


def _optimizer(network: nn.Module, recipe: Recipe, *, fused: bool) -> torch.optim.Optimizer:
    weights = list(network.parameters())
    groups = [
        {"params": [w for w in weights if w.ndim > 1], "weight_decay": recipe.decay},
        {"params": [w for w in weights if w.ndim <= 1], "weight_decay": 0.0},
    ]
    if recipe.optimizer == "adamw":
        return torch.optim.AdamW(groups, lr=recipe.rate, fused=fused or None)
    return torch.optim.SGD(groups, lr=recipe.rate, momentum=0.9, nesterov=True, fused=fused or None)


def _average(network: nn.Module, recipe: Recipe) -> AveragedModel | None:
    if not recipe.ema:
        return None
    return AveragedModel(network, multi_avg_fn=get_ema_multi_avg_fn(recipe.ema), use_buffers=True)
