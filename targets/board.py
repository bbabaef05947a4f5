"""A board is data: what the compiler, the tuner and the report need to know about it.

Every board is one TOML file in `targets/boards/`, or in the folder `boards` of the user's
configuration. The board `host` is the machine that this runs on: its file holds what cannot be
found out, the rest is filled in by `host.py`.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, model_validator

from edgecompress.errors import BoardError, InputError, unknown_name
from edgecompress.files import config_dir

from .description import Arch, Board, Cluster, Emulation, Telemetry
from .host import host_board
from .schema import Strict, parse_toml, read_toml

BOARDS = Path(__file__).parent / "boards"

_Word = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,60}$")]
_Text = Annotated[str, Field(min_length=1, max_length=300)]


class _Cluster(Strict):
    core: _Word
    cores: Annotated[int, Field(ge=1, le=1024)]
    mhz: Annotated[int, Field(ge=100, le=10_000)]
    l1d_kib: Annotated[int, Field(ge=1, le=1024)]
    l2_kib: Annotated[int, Field(ge=0, le=1 << 20)]
    vector_bits: Literal[32, 128, 256, 512]
    vector_registers: Literal[16, 32]
    fma_per_cycle: Annotated[float, Field(gt=0, le=8)]


class _Telemetry(Strict):
    temperature: Annotated[str, Field(pattern=r"^(/sys/[A-Za-z0-9/_.:-]+)?$")] = ""
    throttled: list[_Text] = Field(default=[], max_length=8)


class _Emulation(Strict):
    cpu: _Word
    model: _Text
    revision: Annotated[str, Field(pattern=r"^r[0-9]{1,2}p[0-9]{1,2}$")]
    flags: Annotated[list[_Word], Field(min_length=1, max_length=100)]


class _BoardFile(Strict):
    title: _Text
    soc: _Text
    kind: Literal["virtual", "ssh"]
    arch: Arch
    triple: _Word
    mcpu: _Word
    mattr: list[Annotated[str, Field(pattern=r"^[+-][a-z0-9.-]+$")]]
    features: list[_Word]
    glibc: Annotated[str, Field(pattern=r"^2\.[0-9]{1,2}$")]
    python: Annotated[str, Field(pattern=r"^3\.[0-9]{1,2}$")]
    memory_mib: Annotated[int, Field(ge=64, le=1 << 24)]
    clusters: Annotated[list[_Cluster], Field(min_length=1, max_length=4)]
    telemetry: _Telemetry = _Telemetry()
    supported: bool = True
    reason: str = ""
    emulation: _Emulation | None = None

    @model_validator(mode="after")
    def _reasoned(self) -> _BoardFile:
        if self.supported == bool(self.reason):
            raise ValueError("'reason' says why 'supported' is false, and stands only then")
        return self

    @model_validator(mode="after")
    def _emulated(self) -> _BoardFile:
        if (self.kind == "virtual") != (self.emulation is not None):
            raise ValueError("a table 'emulation' stands where 'kind' is virtual, and only there")
        return self


class _HostFile(Strict):
    title: _Text
    kind: Literal["host"]


def board_names() -> list[str]:
    """The names of all boards that are described, sorted, the user's own included."""
    return sorted(_files())


def virtual_names() -> list[str]:
    """The names of the boards that run here under emulation, sorted."""
    return [board.name for board in load_boards()[0] if board.kind == "virtual"]


def load_boards() -> tuple[tuple[Board, ...], dict[str, str]]:
    """All boards that are described, by name; and of damaged files the board's name and why."""
    boards, broken = [], {}
    for name in board_names():
        try:
            boards.append(load_board(name))
        except (BoardError, InputError) as error:
            broken[name] = error.message
    return tuple(boards), broken


def load_board(name: str) -> Board:
    """The description of one board, supported or not.

    Raises:
        BoardError: no board is called so; the hint offers the near names.
        InputError: its file is damaged; the message names file and key.
    """
    files = _files()
    if name not in files:
        raise unknown_name("board", name, sorted(files), BoardError, "edgecompress boards list")
    return _load(name, files[name])


def require_supported(board: Board) -> Board:
    """The same board.

    Raises:
        BoardError: nothing can be compiled for it; the message gives the reason.
    """
    if board.supported:
        return board
    raise BoardError(
        f"{board.title} ('{board.name}') is not supported: {board.reason}",
        "`edgecompress boards list` shows the boards that are",
    )


def parse_board(text: str, where: str) -> None:
    """Check the text of a board's file.

    Raises:
        InputError: it is none; the message begins with `where` and names the first wrong key.
    """
    parse_toml(text, _BoardFile, where)


def forget() -> None:
    """Read boards' files again at the next `load_board`."""
    _load.cache_clear()


def _files() -> dict[str, Path]:
    own = {path.stem: path for path in sorted((config_dir() / "boards").glob("*.toml"))}
    return own | {path.stem: path for path in sorted(BOARDS.glob("*.toml"))}


@lru_cache(maxsize=64)
def _load(name: str, path: Path) -> Board:
    if name == "host":
        return host_board(read_toml(path, _HostFile, "board file").title)
    described = read_toml(path, _BoardFile, "board file")
    emulation = described.emulation
    return Board(
        name=name,
        title=described.title,
        soc=described.soc,
        kind=described.kind,
        arch=described.arch,
        triple=described.triple,
        mcpu=described.mcpu,
        mattr=tuple(described.mattr),
        features=tuple(described.features),
        glibc=described.glibc,
        python=described.python,
        clusters=tuple(Cluster(**cluster.model_dump()) for cluster in described.clusters),
        memory_mib=described.memory_mib,
        telemetry=Telemetry(described.telemetry.temperature, tuple(described.telemetry.throttled)),
        supported=described.supported,
        reason=described.reason,
        emulation=emulation
        and Emulation(emulation.cpu, emulation.model, emulation.revision, tuple(emulation.flags)),
    )
