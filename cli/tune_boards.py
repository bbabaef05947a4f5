"""The boards that a job's kernels are tuned on: one, or several of one sort at the same time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any

from edgecompress.errors import UsageError

from ..rpc import Endpoint, connect, rpc_server
from ..rpc.health import calm
from ..rpc.lease import lease, new_token
from ..rpc.tracker import Tracker, tracker
from ..targets import Board, ClusterName

# The longest that one RPC server on a board lives; tuning opens another one then.
SERVER_S = 24 * 3600.0
PURPOSE = "tuning"

Opener = Callable[[], AbstractContextManager[Endpoint]]


def require_once(names: Sequence[str]) -> None:
    """Refuse a board that is named twice.

    Raises:
        UsageError: one is: two runs on one board disturb each other's times.
    """
    twice = next((name for name in names if names.count(name) > 1), None)
    if twice is not None:
        raise UsageError(
            f"the board '{twice}' is named twice: two runs on one board disturb each other",
            "name each board once",
        )


def require_one_sort(boards: Mapping[str, Board]) -> None:
    """Refuse boards that are not all of one sort.

    Args:
        boards: by the user's name, what each is; the first is what kernels are tuned for.

    Raises:
        UsageError: one is of another sort: what it needs and takes is not what the first does.
    """
    (name, first), *others = boards.items()
    for other_name, other in others:
        if other.name != first.name:
            raise UsageError(
                f"boards that work together must be of one sort: '{name}' is a {first.name},"
                f" '{other_name}' a {other.name}{_difference(first, other)}",
                f"give '{other_name}' a run by itself, with an --out of its own",
            )


def _difference(one: Board, other: Board) -> str:
    """What the compiler would see differently: " (mcpu cortex-a72, not cortex-a76)"."""
    mine, its = one.tvm_target(), other.tvm_target()
    keys = [key for key in (*mine, *(its.keys() - mine.keys())) if mine.get(key) != its.get(key)]
    said = [f"{key} {_plain(mine.get(key))}, not {_plain(its.get(key))}" for key in keys]
    return f" ({'; '.join(said)})" if said else ""


def _plain(value: Any) -> str:
    return " ".join(value) if isinstance(value, list) else str(value)


@contextmanager
def endpoints(
    names: Sequence[str], cluster: ClusterName, threads: int | None = None, *, wait: float = 0.0
) -> Iterator[dict[str, Opener]]:
    """What opens an RPC server on each board, for as long as the tracker of the block lives.

    Args:
        threads: as of `endpoint`.
        wait: seconds to wait for a board that somebody else measures on.

    Raises:
        BoardError: one cannot be reached, or is in use: each is asked now.
    """
    tokens = {name: new_token() for name in names}
    for name in names:
        with connect(name) as session, lease(session, PURPOSE, wait=wait, token=tokens[name]):
            pass
    with tracker() as tracking:
        yield {
            name: partial(endpoint, name, tracking, cluster, threads, tokens[name])
            for name in names
        }


@contextmanager
def endpoint(
    name: str,
    tracking: Tracker,
    cluster: ClusterName,
    threads: int | None = None,
    token: str = "",
) -> Iterator[Endpoint]:
    """An RPC server on the CPUs of a cluster of a board that is ours, over a session of its own.

    Args:
        tracking: where it registers.
        threads: at most so many of these CPUs, one thread on each; None is all.
        token: of `lease`.
    """
    from ..bench.placement import placement

    with connect(name) as session, lease(session, PURPOSE, token=token) as held:
        cpus = placement(session, cluster).cpus[:threads]
        with rpc_server(session, tracking, deadline=SERVER_S, cpus=cpus) as reached:
            slowed = calm(session)

            def require() -> None:
                held.require()
                slowed()

            yield replace(reached, require=require)
