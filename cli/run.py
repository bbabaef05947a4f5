"""One job on one board: where its files are, what the board is, and when it is ours."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from edgecompress import events
from edgecompress.errors import BoardError, unknown_name
from edgecompress.files import sha256_file, sha256_json

from ..rpc import connect
from ..rpc.connect import no_address
from ..rpc.lease import lease
from ..targets import Board, board_names, load_board, require_supported
from ..targets.inventory import entries
from .job import Job
from .state import Workspace

if TYPE_CHECKING:
    from ..compress.data.photos import PhotoSet
    from ..rpc import Session


@dataclass(frozen=True)
class Run:
    """One job on one board, in one folder.

    Attributes:
        board_name: as the user calls the board: an inventory entry or a described board.
        data: the folder of photo sets, or None for the environment's.
        quick: whether a `[compress]` job trains for minutes instead of hours.
        tuned_on: the boards, all of one sort, that kernels are tuned on; empty is `board_name`.
        history: the file of the history; None is the user's.
        wait: seconds to wait for a board that somebody else measures on.
        answered_by: the boards, all of one sort, that photos are shared out to, `board_name` first;
            empty is `board_name` alone.
    """

    job: Job
    space: Workspace
    board_name: str
    data: Path | None = None
    quick: bool = False
    tuned_on: tuple[str, ...] = ()
    history: Path | None = None
    wait: float = 0.0
    answered_by: tuple[str, ...] = ()

    @cached_property
    def board(self) -> Board:
        """What the board is."""
        return require_supported(find_board(self.board_name))

    @property
    def seen(self) -> Board:
        """The board as the networks see it: one cluster of it, or all cores."""
        return self.board.on(self.job.bench.cluster)

    @cached_property
    def photos(self) -> PhotoSet:
        """The photos that are measured, after the job's limits."""
        from ..compress.data.photos import find_photos

        bench = self.job.bench
        emulated = self.board.kind == "virtual"
        limits = [bench.limit, bench.emulated_limit if emulated else None]
        least = min((limit for limit in limits if limit is not None), default=None)
        return find_photos(self.job.data.photos, self.data).limit(least)

    @property
    def cascade(self) -> Path:
        """The cascade folder."""
        return self.space.path("cascade")

    @property
    def quantized(self) -> Path:
        """The cascade folder in int8."""
        return self.space.path("quantized")

    @property
    def deployed(self) -> Path:
        """The cascade folder that is compiled."""
        return self.quantized if self.job.quantize.precision == "int8" else self.cascade

    @property
    def reference(self) -> Path:
        """What PyTorch said of the photos."""
        return self.space.path("reference", "predictions.jsonl")

    @property
    def onnx(self) -> Path:
        """What ONNX Runtime said of the photos."""
        return self.space.path("reference", "onnx.jsonl")

    @property
    def database(self) -> Path:
        """The tuning records."""
        return self.space.path("tuning.jsonl")

    @property
    def bundle(self) -> Path:
        """The bundle file."""
        return self.space.path("bundle.tar")

    @property
    def peers(self) -> Path:
        """The networks beside other engines."""
        return self.space.path("peers.json")

    @property
    def report(self) -> Path:
        """The report for machines."""
        return self.space.path("report.json")

    @property
    def page(self) -> Path:
        """The report for people."""
        return self.space.path("report.html")

    @property
    def markdown(self) -> Path:
        """The report for a pull request."""
        return self.space.path("report.md")

    def networks(self) -> list[Path]:
        """The ONNX files that are compiled."""
        return sorted(self.deployed.glob("*.onnx"))


def find_board(name: str) -> Board:
    """What a board is that is called so: a described one, or one of the user's own.

    Raises:
        BoardError: there is none; the hint offers the near names.
    """
    if name in board_names():
        return load_board(name)
    mine = {entry.name: entry for entry in entries()}
    if name not in mine:
        known = sorted({*mine, *board_names()})
        raise unknown_name("board", name, known, BoardError, "edgecompress boards list")
    board = load_board(mine[name].board)
    return replace(board, python=mine[name].python) if mine[name].python else board


def usable_board(job: Job, board_name: str) -> str:
    """`board_name`, or the job's fallback where a virtual board cannot run here.

    Raises:
        BoardError: it cannot, and the job names no fallback; or nobody's board is called so.
    """
    board = require_supported(find_board(board_name))
    if board.kind == "ssh" and board_name in board_names():
        raise no_address(board_name)  # now, and not after hours of training
    if board.kind != "virtual" or job.fallback in (None, board_name):
        return board_name
    try:
        connect(board_name).close()
    except BoardError as error:
        fallback = str(job.fallback)
        events.warn(f"{error.message}; using the board '{fallback}' instead. {error.hint}".strip())
        return fallback
    return board_name


@contextmanager
def alone(board: Board, purpose: str, wait: float) -> Iterator[None]:
    """Hold this machine's lease where times are taken on it; counts under emulation need none.

    Raises:
        BoardError: somebody else measures on it.
    """
    if board.kind != "host":
        yield
        return
    with connect(board.name) as session, lease(session, purpose, wait=wait) as held:
        yield
        held.require()


@contextmanager
def leased(name: str, wait: float, token: str) -> Iterator[Session]:
    """A session with a board that is ours meanwhile."""
    with connect(name) as session, lease(session, "bench", wait=wait, token=token) as held:
        yield session
        held.require()


def code_fingerprint(*rooms: str) -> str:
    """A fingerprint of our own sources, so that an upgrade compiles again."""
    root = Path(__file__).parent.parent
    sources = [path for room in rooms for path in sorted((root / room).rglob("*.py"))]
    return sha256_json([[path.name, sha256_file(path)] for path in sources])
