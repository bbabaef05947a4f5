"""Several processes train one network: what torchrun starts, each goes the same steps.

Their number and rank come from torchrun's environment. Within `joined` they are one group: photos
of a batch are divided among them, the first one decides, measures and writes, and the others are
told what it found. Outside of it, and in a process that torchrun did not start, each is alone, and
everything here costs nothing.

A command line has one console, lock and workspace: `shared` runs it in the first process, and the
others do what `lead` sends them.
"""

from __future__ import annotations

import atexit
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Generic, ParamSpec, TypeVar, cast

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from edgecompress.errors import EdgeCompressError

from .devices import chosen_device

T = TypeVar("T")
P = ParamSpec("P")

PATIENCE = timedelta(days=7)
"""How long one process waits for another that is alive: the first may compile and measure for hours
while the others have nothing to do. One that died is noticed at once, by its closed connection."""

_LOST = "another process of this training has ended"
_AGAIN = "look for its message above; the same command goes on from the last checkpoint"


@dataclass(frozen=True)
class Ranks:
    """Which process of how many this one is.

    Attributes:
        rank: from 0.
        count: of all machines together.
    """

    rank: int = 0
    count: int = 1

    @property
    def first(self) -> bool:
        """Whether it is this one that decides and writes."""
        return self.rank == 0

    def part(self, size: int) -> slice:
        """Which of `size` photos are this process's; all ranks' parts differ by at most one."""
        return slice(size * self.rank // self.count, size * (self.rank + 1) // self.count)


_ALONE = Ranks()
_now = _ALONE
_group: dist.ProcessGroup | None = None
"""Of the processes of this training: what all that they tell each other goes through."""
_before: dict[str, str] | None = None
"""The environment in which `shared` was called, where it was in this process."""


def ranks() -> Ranks:
    """Of the group that this process works in just now; alone where it does not."""
    return _now


@contextmanager
def joined() -> Iterator[Ranks]:
    """Work as one of torchrun's processes, where it started this one; within another, no more.

    A script that has called `torch.distributed.init_process_group` itself is taken as it is; else
    the group is made here, with gloo for what is on the CPU and NCCL for GPUs, and stays.

    Raises:
        EdgeCompressError: another process ended.
    """
    global _now  # noqa: PLW0603 - torch.distributed's group is the process's too
    if _now.count > 1 or not _started():
        yield _now
        return
    _connect()
    _now = Ranks(dist.get_rank(), dist.get_world_size())
    try:
        yield _now
    except (dist.DistError, RuntimeError) as error:
        if _is_lost(error):
            raise EdgeCompressError(_LOST, _AGAIN) from error
        raise
    finally:
        _now = _ALONE


def _started() -> bool:
    return int(os.environ.get("WORLD_SIZE", "1")) > 1 or (
        dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1
    )


def _connect() -> None:
    """Make the group of our own, within torch's."""
    global _group  # noqa: PLW0603
    if not dist.is_initialized():
        _initialize()
    try:
        if _group is not None:
            dist.get_process_group_ranks(_group)
            return
    except KeyError:
        pass  # torch's has been ended, and there is another
    _group = cast("dist.ProcessGroup", dist.new_group(timeout=PATIENCE))  # of all processes
    atexit.register(_disconnect)


def _disconnect() -> None:
    """End the group, its threads first, while there is an interpreter: they let go of a tensor a
    little after it has been sent, and a process that is ending then aborts. Torch's own group
    cannot be ended once a network had a shell (seen with torch 2.13): nothing is sent through it.
    """
    global _group  # noqa: PLW0603
    if dist.is_initialized():
        dist.destroy_process_group()
    _group = None


def _initialize() -> None:
    device = chosen_device()
    backend = "gloo"
    if device.type == "cuda":
        torch.cuda.set_device(device)
        backend = "cpu:gloo,cuda:nccl"
    try:
        dist.init_process_group(backend, timeout=PATIENCE)
    except (dist.DistError, RuntimeError, ValueError) as error:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise EdgeCompressError(
            f"the processes did not find each other: {first}",
            "start them with torchrun, which sets MASTER_ADDR, MASTER_PORT and RANK",
        ) from error


def _is_lost(error: BaseException) -> bool:
    """gloo raises a plain RuntimeError that quotes its own source file."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def decided(function: Callable[[], T]) -> T:
    """What the first process finds, in all of them; an error of ours is raised in all of them.

    Args:
        function: called in the first process only; its result can be pickled.
    """
    global _now  # noqa: PLW0603
    if _now.count == 1:
        return function()
    found: list[Any] = [None, None]
    if _now.first:
        own, _now = _now, _ALONE  # what it calls must not wait for the others
        try:
            found[1] = function()
        except EdgeCompressError as error:
            found[0] = error
        finally:
            _now = own
    dist.broadcast_object_list(found, src=0, group=_group, device=torch.device("cpu"))
    if found[0] is not None:
        raise found[0]
    return found[1]


@dataclass(frozen=True)
class Told(Generic[P, T]):
    """A function that is called in the first process only, with its result in all of them. Sent to
    another process it arrives without the function, which may hold a connection."""

    function: Callable[P, T]

    def __call__(self, *args: P.args, **kwargs: P.kwargs) -> T:
        """In all processes."""
        return decided(lambda: self.function(*args, **kwargs))

    def __reduce__(self) -> tuple[Any, ...]:
        return Told, (None,)


def total(values: Tensor) -> Tensor:
    """The sum over all processes, in each of them; the tensor is on the CPU."""
    if _now.count > 1:
        dist.all_reduce(values, group=_group)
    return values


def gathered(value: T) -> list[T]:
    """Every process's value, in the order of ranks, in each of them."""
    if _now.count == 1:
        return [value]
    found: list[Any] = [None] * _now.count
    dist.all_gather_object(found, value, group=_group)
    return found


def averaging(network: nn.Module) -> nn.Module:
    """The network in a shell that averages gradients over all processes in each backward pass;
    BatchNorm's statistics are the first process's."""
    if _now.count == 1:
        return network
    # A static graph may have weights that no output depends on, as modules of users' own have.
    return DistributedDataParallel(network, process_group=_group, static_graph=True)


def spread(network: nn.Module) -> None:
    """The first process's weights and statistics into all processes' networks."""
    if _now.count > 1:
        for tensor in (*network.parameters(), *network.buffers()):
            # A tensor with channels innermost is no contiguous one, which a broadcast wants.
            whole = tensor.detach().contiguous()
            dist.broadcast(whole, src=0, group=_group)
            tensor.data.copy_(whole)


def shared(main: Callable[[], None]) -> None:
    """Run a command line in the first process; the others do what it sends, until it ends.

    Raises:
        EdgeCompressError: in another than the first: what the function that was sent raised.
    """
    global _before  # noqa: PLW0603
    with joined() as own:
        first = own.first
    if not first:
        _follow()
        return
    _before = dict(os.environ)
    try:
        main()
    except SystemExit as end:
        if end.code in (None, 0):
            _send(None)
        raise
    finally:
        _before = None
    _send(None)


def lead(function: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T:
    """Call a function in all processes; the result is this one's.

    Args:
        function: of a module; it works within `joined`. It and its arguments can be pickled.
    """
    if _before is not None:
        # What the command line has set (folders of the user's modules) holds for the others too.
        settings = {k: v for k, v in os.environ.items() if _before.get(k) != v}
        _send((function, args, kwargs, settings))
    return function(*args, **kwargs)


def _send(task: Any) -> Any:
    sent = [task]
    with joined():
        dist.broadcast_object_list(sent, src=0, group=_group, device=torch.device("cpu"))
    return sent[0]


def _follow() -> None:
    while (task := _send(None)) is not None:
        function, args, kwargs, settings = task
        os.environ.update(settings)
        function(*args, **kwargs)
