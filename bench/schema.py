"""The schema of report.json.

What was not measured is null, and `not_measured` says why, by the field's path: a report with a
null and no reason, or with a number that is not finite, is not valid.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Annotated, Any, ClassVar, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from edgecompress.errors import plain

from .accuracy import NEVER

SCHEMA_VERSION = 1

Count = Annotated[int, Field(ge=0, lt=2**53)]
Fraction = Annotated[float, Field(ge=0, le=1)]
# A day is 9e7: what is larger is no time, and its sums need not be finite.
Milliseconds = Annotated[float, Field(ge=0, le=1e12)]
# Boards' words, which terminals show.
Flag = Annotated[str, AfterValidator(plain), Field(max_length=200)]
Sentence = Annotated[str, AfterValidator(plain), Field(max_length=400)]


def _finite(value: dict[str, Any]) -> dict[str, Any]:
    """Refuse NaN and infinity in what the schema does not describe: they are not JSON."""
    json.dumps(value, allow_nan=False)
    return value


Document = Annotated[dict[str, Any], AfterValidator(_finite)]


class _Part(BaseModel):
    """A part of the report.

    Attributes:
        absent: fields that reports of older releases lack; where they are null they are left out.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)
    absent: ClassVar[tuple[str, ...]] = ()

    @model_serializer(mode="wrap")
    def _told(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        document = handler(self)
        for name in self.absent:
            if getattr(self, name) is None:
                document.pop(name, None)
        return document


class Latency(_Part):
    """Milliseconds over n runs of a part; percentiles interpolate linearly."""

    absent = ("p10",)
    p10: Milliseconds | None = None
    p50: Milliseconds
    p90: Milliseconds
    p99: Milliseconds
    mean: Milliseconds
    n: Count


class Scores(_Part):
    """Accuracy over n answered photos; `failed` more could not be classified.

    The intervals are 95 % Wilson intervals, low and high.
    """

    top1: Fraction | None
    top1_interval: tuple[Fraction, Fraction] | None
    top5: Fraction | None
    top5_interval: tuple[Fraction, Fraction] | None
    n: Count
    failed: Count


class AgreementFacts(_Part):
    """Board against host, on the n photos that both answered."""

    top1: Fraction
    max_logit_difference: float | None
    same_stage: Fraction
    n: Count


class Accuracy(Scores):
    """The board's accuracy, and beside it PyTorch's on the host with the same photos.

    Attributes:
        onnx: ONNX Runtime's on the host, with the files that the board's networks are made from.
        onnx_agreement: the board against these answers.
    """

    absent = ("onnx", "onnx_agreement")
    photos: str
    reference: Scores | None
    onnx: Scores | None = None
    onnx_agreement: AgreementFacts | None = None


class Telemetry(_Part):
    """How the board felt at one moment: frequencies and governors are those of its cores."""

    temperature_c: float | None
    frequency_mhz: list[int] | None
    governor: list[str] | None
    throttled: list[str] | None


class BoardFacts(_Part):
    """The board: its description, and what it said of itself."""

    name: str
    title: str
    soc: str
    arch: str
    mcpu: str
    kind: Literal["host", "virtual", "ssh"]
    model: str | None
    kernel: str | None
    os: str | None
    cores: Count | None
    memory_mib: Count | None
    before: Telemetry
    after: Telemetry


class BoardShare(_Part):
    """A board, as the user calls it, and how many photos it answered."""

    name: Annotated[str, Field(max_length=128)]
    photos: Count


class RunFacts(_Part):
    """How the board was measured.

    `cpus` are the numbers of the CPUs that the networks ran on, `core` what these are ("" where
    they are of several sorts). `repeat` is how often each photo was run for its latency, `warmup`
    what came before that. `boards` are those that accuracy is from, the one that latency is from
    first; `repeated` is how many photos are listed that were listed before with the same content:
    they were answered once, and count as often as they are listed.
    """

    absent = ("boards", "repeated")
    boards: Annotated[list[BoardShare], Field(max_length=1000)] | None = None
    repeated: Count | None = None
    threads: Count
    cluster: Literal["fast", "efficient", "all"]
    core: str
    cpus: list[Count]
    warmup: Count
    repeat: Count
    load_ms: float
    wall_s: float


class Doubt(_Part):
    """What speaks against the times: `kind` is what it is filed under, `advice` what to do."""

    kind: Flag
    text: Sentence
    advice: Sentence


class LatencyPass(_Part):
    """A pass over the photos whose latency was measured.

    Attributes:
        began_s, ended_s: by the samples' clock.
        total_ms: of whole photos.
        spread: nine of ten runs take at most so many times their photo's median.
        throttled: flags of the time of the pass.
        clock_drop: how far the clock fell, as a share.
        others: share of the cores used that other programs had.
        disturbed: what makes it one to repeat.
    """

    absent = ("spread", "clock_drop", "others")
    began_s: float
    ended_s: float
    runs: Count
    total_ms: Latency
    spread: float | None = None
    throttled: list[Flag]
    clock_drop: float | None = None
    others: Fraction | None = None
    disturbed: list[Doubt]


class Cooling(_Part):
    """A wait for the board to cool down; `reached` whether it came to that."""

    absent = ("from_c", "to_c", "reached")
    began_s: float
    ended_s: float
    from_c: float | None = None
    to_c: float | None = None
    reached: bool | None = None


class BoardSample(_Part):
    """The board at one moment; what could not be read is left out.

    Attributes:
        t: seconds since the run began.
        mhz: of each core that the run uses.
        watts: of the whole board.
        load: the kernel's load average.
        others: share of the cores used that other programs had since the sample before.
    """

    absent = ("temperature_c", "mhz", "throttled", "watts", "load", "others")
    t: float
    temperature_c: float | None = None
    mhz: Annotated[list[Count], Field(max_length=1024)] | None = None
    throttled: Annotated[list[Flag], Field(max_length=16)] | None = None
    watts: float | None = None
    load: float | None = None
    others: Fraction | None = None


class Measurement(_Part):
    """How far the times can be trusted, and why.

    Attributes:
        trust: "good" only where nothing speaks against them.
        doubts: what does, the worst first.
        notes: what could not be looked at, and what is worth knowing.
        photos: whose latency was measured; the times of the report are those of these.
        counted: the pass that the times are from, from 1.
        accuracy_s: when photos were answered once each, by the same process: began, ended.
        governor: of each core used; None where the kernel does not tell.
        samples: of the whole run; `interval_s` apart at its end, `sample_ms` of CPU time each.
    """

    absent = ("governor",)
    trust: Literal["good", "doubtful"]
    doubts: list[Doubt]
    notes: list[str]
    photos: Count
    counted: Annotated[int, Field(ge=1)]
    passes: Annotated[list[LatencyPass], Field(min_length=1, max_length=100)]
    coolings: Annotated[list[Cooling], Field(max_length=100)]
    accuracy_s: tuple[float, float]
    governor: Annotated[list[Flag], Field(max_length=1024)] | None = None
    interval_s: float
    sample_ms: float
    samples: Annotated[list[BoardSample], Field(max_length=2000)]

    @property
    def own(self) -> LatencyPass:
        """The pass that counts."""
        return self.passes[self.counted - 1]

    @model_validator(mode="after")
    def _consistent(self) -> Measurement:
        if self.counted > len(self.passes):
            raise ValueError("'counted' is none of the passes")
        if (self.trust == "good") == bool(self.doubts):
            raise ValueError("'trust' is good exactly where there are no doubts")
        return self


class PredictorFacts(_Part):
    """The foreground predictor, and how often each of its crop sizes was taken."""

    network: str
    resolution: Count
    macs: Count
    params: Count
    sizes: list[float]
    size_shares: list[Fraction] | None


class StageFacts(_Part):
    """A member: what it is, how many photos it answered, and how well."""

    network: str
    resolution: Count
    threshold: float | None
    macs: Count
    params: Count
    hits: Count
    hit_rate: Fraction | None
    top1: Fraction | None


class Macs(_Part):
    """Multiply-accumulates a photo.

    Attributes:
        mean: measured, predictor included.
        last_member: of the last member alone.
        saved: share of `last_member` that is saved on average; negative where more is spent.
    """

    mean: float | None
    last_member: Count
    saved: float | None


class Memory(_Part):
    """The runner's memory on the board, its highest, MiB."""

    peak_rss_mib: float


class BundleFacts(_Part):
    """The archive, and the bytes of its parts."""

    file: str
    sha256: str
    size_bytes: Count
    runtime_bytes: Count
    networks_bytes: Count
    runner_bytes: Count


class Tuning(_Part):
    """What tuning gave the compiler.

    `measured` says how many tuned layers rest on times of a board (`real`), on estimated cycles
    (`cost`), or on times under emulation (`emulated`), which say nothing about speed.
    """

    records_used: Count
    tuned_layers: Count
    layers: Count
    measured: dict[str, Count]
    database: str | None


class Layer(_Part):
    """A layer of a compiled network; times in milliseconds where operators were timed."""

    network: str
    name: str
    op: str | None
    schedule: str | None
    macs: Count | None
    tuned: bool | None
    p50_ms: float | None
    share: Fraction | None


class TradeOffPoint(_Part):
    """Accuracy and cost at one threshold for all stages but the last.

    A threshold above 1 is one that no confidence reaches.
    """

    threshold: Annotated[float, Field(ge=0, le=NEVER)]
    top1: Fraction
    mean_macs: float
    hit_rates: list[Fraction]


class TradeOff(_Part):
    """The curve, and whose predictions it was computed from."""

    source: Literal["reference", "board"]
    points: Annotated[list[TradeOffPoint], Field(min_length=1)]


class CalibrationPhotos(_Part):
    """Photos that int8 rests on: `views` of so many `photos`."""

    name: str
    photos: Count
    views: Count
    unreadable: Count


class PrecisionNetwork(_Part):
    """A network's numbers on the gate's photos, beside those of its float32 self.

    Attributes:
        layers: convolutions and dense layers that could be int8; `int8` of them are.
        float32: the names of the others, the most sensitive first.
        expected_drop: of top-1, by the float network's own probabilities.
        agreement: share of equal answers.
        top1: in float32 and in int8.
    """

    network: str
    precision: Literal["float32", "float16", "int8"]
    layers: Count | None
    int8: Count | None
    float32: list[str]
    expected_drop: Fraction | None
    agreement: Fraction | None
    top1: tuple[Fraction, Fraction] | None


class PrecisionCascade(_Part):
    """The whole cascade on the gate's photos, as `PrecisionNetwork`; the gate does not judge it.

    `same_stage` is the share of photos that the same member answers.
    """

    expected_drop: Fraction
    agreement: Fraction
    same_stage: Fraction
    top1: tuple[Fraction, Fraction] | None


class Precision(_Part):
    """What the board computed with, where that is not float32.

    Attributes:
        allowed_drop: the gate: the largest expected drop of top-1 of a network.
        ranges, gate: the photos of each.
        shared: photos of these that are also among the reported ones.
    """

    precision: Literal["float16", "int8"]
    allowed_drop: Fraction | None
    ranges: CalibrationPhotos | None
    gate: CalibrationPhotos | None
    shared: Count | None
    networks: list[PrecisionNetwork]
    cascade: PrecisionCascade | None


class PeerRow(_Part):
    """One engine on one network; an engine without numbers has a `reason`.

    Attributes:
        ms: median of a run, where time was measured.
        ratio: that against ONNX Runtime's in the same rounds: median, lower, upper quartile.
        instructions: of one run, where they were counted.
        cycles: estimated, by core.
        difference: of its output from ONNX Runtime's, as a share of the largest output.
    """

    engine: str
    title: str
    threads: Count
    ms: float | None
    ratio: tuple[float, float, float] | None
    instructions: Count | None
    cycles: dict[str, float]
    difference: float | None
    reason: str


class PeerNetwork(_Part):
    """One network in all engines."""

    network: str
    macs: Count | None
    rows: list[PeerRow]


class Peers(_Part):
    """The job's networks beside other engines. `core` is the board's own."""

    measured: Literal["time", "cycles", "nothing"]
    core: str
    networks: list[PeerNetwork]


class PhotoFacts(_Part):
    """One answered photo, so that two reports can be compared photo by photo.

    Attributes:
        photo: the first 16 digits of its file's SHA-256.
        target: class index of what is on it; `answer` of what was said.
        rank: of the right class among the five most probable, from 1; 0 where it is not there.
        stage: index of the member that answered.
        ms: milliseconds of each part, one for each run.
        confidences: after each member, the last one too, whichever of them answered; empty where
            not all ran. They are those of `trade_off.source`.
        right: whether the answer after each of these members is right.
    """

    photo: str
    target: Count
    answer: Count
    rank: Annotated[int, Field(ge=0, le=5)]
    stage: Count
    ms: dict[str, list[Milliseconds]]
    confidences: list[Fraction]
    right: list[bool]


class Failure(_Part):
    """A photo that could not be classified, or something else that went wrong."""

    where: Literal["board", "reference"]
    subject: str
    kind: str
    error: str


class Report(_Part):
    """The whole report.

    Attributes:
        emulated: the board's CPU was emulated: its times are not comparable with any other.
        not_measured: path of a null (`board.before.temperature_c`) to the reason for it; a path
            covers what is below it.
        compression: what compression measured on the way (`compression.json`).
        precision: absent where all is float32.
        peers: absent where no engines were compared.
        photos: every answered photo; absent in reports of older releases.
        measurement: whether the times can be trusted; absent in reports of older releases, and
            where none were taken.
    """

    absent = ("precision", "peers", "photos", "measurement")
    schema_version: Literal[1] = 1
    name: str
    created: str
    emulated: bool
    board: BoardFacts
    versions: dict[str, str]
    accuracy: Accuracy
    latency_ms: dict[str, Latency]
    run: RunFacts
    predictor: PredictorFacts | None
    stages: list[StageFacts]
    agreement: AgreementFacts | None
    macs: Macs
    memory: Memory
    bundle: BundleFacts
    tuning: Tuning | None
    layers: list[Layer] | None
    trade_off: TradeOff | None
    compression: Document | None
    origin: dict[str, str]
    failures: list[Failure]
    not_measured: dict[str, str]
    precision: Precision | None = None
    peers: Peers | None = None
    photos: list[PhotoFacts] | None = None
    measurement: Measurement | None = None

    @model_validator(mode="after")
    def _reasoned(self) -> Report:
        nulls = _nulls(self.model_dump(exclude={"compression", "not_measured", "photos"}))
        paths = [*nulls, *(["compression"] if self.compression is None else [])]
        for path in paths:
            if not any(
                path == known or path.startswith(f"{known}.") for known in self.not_measured
            ):
                raise ValueError(f"'{path}' is null, and 'not_measured' has no reason for it")
        return self

    @model_validator(mode="after")
    def _answered(self) -> Report:
        if any(photo.stage >= len(self.stages) for photo in self.photos or ()):
            raise ValueError("a photo was answered by a stage that the report does not have")
        return self


# A null that is a value: the last stage has no threshold.
_PLAIN_NULLS = {"threshold"}


def _nulls(value: Any, path: str = "") -> Iterator[str]:
    """Paths of the nulls; items of a list share the list's own path."""
    if isinstance(value, dict):
        for key, one in value.items():
            if key not in _PLAIN_NULLS:
                yield from _nulls(one, f"{path}.{key}" if path else key)
    elif isinstance(value, list):
        for one in value:
            yield from _nulls(one, path)
    elif value is None:
        yield path
