"""Job files: one TOML describes a whole job, checked before anything runs."""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from edgecompress.errors import InputError, UsageError

if TYPE_CHECKING:
    from ..compress.comparing.comparison import ComparisonTable
    from ..compress.plan import CompressConfig, PretrainedConfig
    from ..runner.protocol import Plan

T = TypeVar("T")
_Strict = ConfigDict(extra="forbid", frozen=True)
_WORKS = "examples/demo.toml is one that works"


class DataTable(BaseModel):
    """Where photos come from: a known source's name, or a folder.

    Attributes:
        photos: what accuracy and latency are measured on.
        train: what networks are trained on; only for jobs with a `[compress]` table.
    """

    model_config = _Strict
    photos: str
    train: str | None = None


class TuneTable(BaseModel):
    """How long kernels are tuned before the compile step; all zero is not at all.

    Attributes:
        cost: what candidates are scored by: `time` on the board, or `cycles` that are estimated
            under emulation, for those who have no board.
        boards: names of boards of one sort to tune on at the same time; empty is the job's own.
    """

    model_config = _Strict
    seconds: Annotated[float, Field(ge=0)] = 0
    trials: Annotated[int, Field(ge=0)] = 0
    cost: Literal["time", "cycles"] = "time"
    boards: Annotated[list[str], Field(max_length=64)] = []


class QuantizeTable(BaseModel):
    """What numbers the compiled networks compute with.

    Attributes:
        precision: `int8` is quantised after training, and has a gate (docs/precision.md).
        photos: what int8 ranges and the gate are taken from, as in `[data]`; by default the
            training photos, or the packaged ones where the job trains nothing.
        calibration: photos for the ranges.
        gate: other photos, on which accuracy is compared.
        drop: the largest expected drop of top-1 of a network, as a share.
    """

    model_config = _Strict
    precision: Literal["float32", "float16", "int8"] = "float32"
    photos: str | None = None
    calibration: Annotated[int, Field(ge=1, le=100_000)] = 128
    gate: Annotated[int, Field(ge=1, le=100_000)] = 256
    drop: Annotated[float, Field(ge=0, lt=1)] = 0.005


class LatencyTable(BaseModel):
    """How latency is measured, once all photos have been answered (docs/measurement.md).

    Attributes:
        photos: that are run again and again, spread evenly over all; 0 is no measuring.
        runs: at least so many runs,
        seconds: and at least so long,
        most_seconds: and at most so long.
        cool_below_c: it begins below this temperature, where that can be read.
        cool_seconds: the longest wait for that.
        retries: further tries where something disturbs it.
    """

    model_config = _Strict
    photos: Annotated[int, Field(ge=0, le=10_000)] = 20
    runs: Annotated[int, Field(gt=0, le=10_000)] = 60
    seconds: Annotated[float, Field(ge=0, le=3600)] = 10.0
    most_seconds: Annotated[float, Field(ge=0, le=3600)] = 120.0
    cool_below_c: Annotated[float, Field(ge=-50, le=150)] = 65.0
    cool_seconds: Annotated[float, Field(ge=0, le=3600)] = 120.0
    retries: Annotated[int, Field(ge=0, le=10)] = 2


class BenchTable(BaseModel):
    """What is measured on the board.

    Attributes:
        limit: the most photos, taken evenly from the whole set; None is all.
        emulated_limit: the same where the board's CPU is emulated, which is slow.
        threads: CPU threads of the compiled networks; None is as many as `cluster` has cores.
        cluster: which of the board's cores networks are compiled for, tuned on and run on.
        warmup: classifications before latency is measured.
        latency: how that is done; on a board whose CPU is emulated it is done once and briefly.
        profile: time every operator too.
        peers: compare the networks with other engines too (`cli/peers.py`).
    """

    model_config = _Strict
    limit: Annotated[int, Field(gt=0)] | None = None
    emulated_limit: Annotated[int, Field(gt=0)] | None = None
    threads: Annotated[int, Field(gt=0, le=64)] | None = None
    cluster: Literal["fast", "efficient", "all"] = "fast"
    warmup: Annotated[int, Field(ge=0)] = 3
    latency: LatencyTable = LatencyTable()
    profile: bool = False
    peers: bool = False

    @property
    def plan(self) -> Plan:
        """`latency`, as the runner has it."""
        from ..runner.protocol import Plan

        return Plan(**self.latency.model_dump())


class DeployTable(BaseModel):
    """How the bundle goes to a board.

    Attributes:
        sign: the key that signs it (`edgecompress keys`); None is no signature.
    """

    model_config = _Strict
    sign: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]{0,40}$")] | None = None


class Job(BaseModel):
    """A whole job: photos and a classifier in, a report out.

    Attributes:
        name: what the output folder is called unless told otherwise.
        board: a board's name (`edgecompress boards` lists them).
        fallback: the board to use instead where `board` is virtual and cannot run here.
        pretrained: a cascade of ready networks, or
        compress: a cascade to be trained and shrunk; exactly one of the two.
        comparison: what `edgecompress bench compression` compares the latter with.
    """

    model_config = _Strict
    name: Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    board: str
    fallback: str | None = None
    data: DataTable
    pretrained: dict[str, Any] | None = None
    compress: dict[str, Any] | None = None
    comparison: dict[str, Any] = {}
    quantize: QuantizeTable = QuantizeTable()
    tune: TuneTable = TuneTable()
    bench: BenchTable = BenchTable()
    deploy: DeployTable = DeployTable()

    @model_validator(mode="after")
    def _one_classifier(self) -> Job:
        if (self.pretrained is None) == (self.compress is None):
            raise ValueError("needs exactly one of the tables [pretrained] and [compress]")
        if self.compress is not None and self.data.train is None:
            raise ValueError("[compress] needs `train` in [data]")
        return self


def load_job(path: Path) -> Job:
    """Read a job file.

    Raises:
        InputError: it cannot be read.
        UsageError: it is not TOML, or a field is unknown, missing or out of range.
    """
    try:
        text = path.read_text()
    except OSError as error:
        raise InputError(f"cannot read job {path}: {error.strerror}", _WORKS) from error
    except UnicodeDecodeError as error:
        raise UsageError(f"job {path} is not UTF-8 text", _WORKS) from error
    try:
        job = Job.model_validate(tomllib.loads(text))
    except ValidationError as error:
        raise UsageError(f"job {path}: {_first(error)}", "docs/jobs.md lists every field") from None
    # Numbers of thousands of digits and deep nesting end in errors that are not TOML's own.
    except (ValueError, RecursionError) as error:
        raise UsageError(f"job {path} is not valid TOML: {error}", _WORKS) from error
    if job.compress is not None:
        # A network of the user's own (`family = "module:..."`) lies beside the job file.
        from ..compress.networks.foreign.source import look_in

        look_in(path.parent)
    return job


def compress_config(job: Job) -> CompressConfig:
    """The job's `[compress]` table, checked."""
    from ..compress.plan import CompressConfig

    return _table(CompressConfig, "compress", job.compress or {})


def pretrained_config(job: Job) -> PretrainedConfig:
    """The job's `[pretrained]` table, checked."""
    from ..compress.plan import PretrainedConfig

    return _table(PretrainedConfig, "pretrained", job.pretrained or {})


def comparison_table(job: Job) -> ComparisonTable:
    """The job's `[comparison]` table, checked."""
    from ..compress.comparing.comparison import ComparisonTable

    return _table(ComparisonTable, "comparison", job.comparison)


def _table(kind: type[T], name: str, fields: dict[str, Any]) -> T:
    try:
        return kind(**fields)
    except ValidationError as error:
        raise UsageError(f"[{name}]: {_first(error)}", "docs/jobs.md lists every field") from None
    except TypeError as error:
        raise UsageError(f"[{name}]: {error}", "docs/jobs.md lists every field") from None


def _first(error: ValidationError) -> str:
    one = error.errors()[0]
    where = ".".join(str(part) for part in one["loc"])
    return f"{where}: {one['msg']}" if where else one["msg"].removeprefix("Value error, ")
