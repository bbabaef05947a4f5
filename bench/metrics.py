"""The numbers of a report by name, each in the unit that people compare it in."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from .schema import Latency, Report, Scores

Better = Literal["higher", "lower", ""]
Group = Literal["accuracy", "latency", "flow", "cost", "layers"]

GROUPS: dict[Group, str] = {
    "accuracy": "Accuracy",
    "latency": "Latency",
    "flow": "Flow through the cascade",
    "cost": "Computation and memory",
    "layers": "Layers",
}

STATISTICS = ("p50", "p90", "p99", "mean")


@dataclass(frozen=True)
class Metric:
    """One number.

    Attributes:
        key: its name on the command line: `p50`, `efficientnet_lite0.p90`.
        title: for people.
        group: what it belongs to.
        unit: of `value`; `points` are hundredths of a share.
        better: which way is better; "" where neither is.
        value: None where it was not measured.
        why: the reason then.
        of: the part of a photo's way, the member's index, or "": what the samples are looked up by.
    """

    key: str
    title: str
    group: Group
    unit: Literal["points", "ms", "M", "MiB", "MB"]
    better: Better
    value: float | None
    why: str = ""
    of: str = ""

    @property
    def timed(self) -> bool:
        """Whether it is a time, which other boards and emulators have nothing to compare with."""
        return self.unit == "ms"


def metrics(report: Report) -> dict[str, Metric]:
    """All numbers of a report that can be compared, by name, in the order of reading."""
    rows = [*_accuracy(report), *_latency(report), *_flow(report), *_cost(report), *_layers(report)]
    return {row.key: row for row in rows}


def _reason(report: Report, path: str) -> str:
    """Why a number is null: the report says so for it, or for what it is a part of."""
    while path:
        if path in report.not_measured:
            return report.not_measured[path]
        path = path.rpartition(".")[0]
    return "not measured"


def _percent(value: float | None) -> float | None:
    return None if value is None else value * 100


def _accuracy(report: Report) -> Iterator[Metric]:
    def share(key: str, title: str, scores: Scores | None, path: str) -> Metric:
        value = _percent(getattr(scores, key[-4:])) if scores else None
        why = "" if value is not None else _reason(report, path)
        return Metric(key, title, "accuracy", "points", "higher", value, why, of=key)

    told = report.accuracy
    yield share("top1", "top-1", told, "accuracy.top1")
    yield share("top5", "top-5", told, "accuracy.top5")
    yield share("pytorch.top1", "top-1 in PyTorch", told.reference, "accuracy.reference.top1")
    same = report.agreement
    yield Metric(
        "agreement",
        "same top-1 as PyTorch",
        "accuracy",
        "points",
        "higher",
        same.top1 * 100 if same else None,
        "" if same else _reason(report, "agreement"),
    )


def _latency(report: Report) -> Iterator[Metric]:
    networks = [stage.network for stage in report.stages]
    for part in ["total", "decode", "predict", "crop", *networks]:
        times = report.latency_ms.get(part)
        if part == "predict" and times is None:
            continue
        for name in STATISTICS:
            yield _time(part, name, times)
    yield Metric("load", "loading", "latency", "ms", "lower", report.run.load_ms)


def _time(part: str, name: str, times: Latency | None) -> Metric:
    key, title = (name, f"{name} of a photo") if part == "total" else (f"{part}.{name}",) * 2
    value = None if times is None else getattr(times, name)
    why = "" if times else "no photo reached it"
    return Metric(key, title, "latency", "ms", "lower", value, why, of=part)


def _flow(report: Report) -> Iterator[Metric]:
    for index, stage in enumerate(report.stages):
        for key, title, value, path in (
            ("hits", "answered by", stage.hit_rate, "stages.hit_rate"),
            ("right", "top-1 of those answered by", stage.top1, "stages.top1"),
        ):
            yield Metric(
                f"{key}.{stage.network}",
                f"{title} {stage.network}",
                "flow",
                "points",
                "higher" if key == "right" else "",
                _percent(value),
                "" if value is not None else _reason(report, path),
                of=f"{key}.{index}",
            )


def _cost(report: Report) -> Iterator[Metric]:
    mean, bundle = report.macs.mean, report.bundle
    why = "" if mean is not None else _reason(report, "macs.mean")
    yield Metric(
        "macs", "MACs a photo", "cost", "M", "lower", None if mean is None else mean / 1e6, why
    )
    yield Metric(
        "macs.last", "MACs of the last member", "cost", "M", "lower", report.macs.last_member / 1e6
    )
    peak = report.memory.peak_rss_mib
    yield Metric("memory", "memory, highest", "cost", "MiB", "lower", peak)
    for key, title, size in (
        ("bundle", "bundle", bundle.size_bytes),
        ("bundle.runtime", "runtime in it", bundle.runtime_bytes),
        ("bundle.networks", "networks in it", bundle.networks_bytes),
    ):
        yield Metric(key, title, "cost", "MB", "lower", size / 1e6)


def _layers(report: Report) -> Iterator[Metric]:
    """A layer's time; a name that a network has twice is counted up, in the order of execution."""
    seen: dict[str, int] = {}
    for layer in report.layers or []:
        key = f"layer.{layer.network}.{layer.name}"
        seen[key] = seen.get(key, 0) + 1
        if seen[key] > 1:
            key = f"{key}#{seen[key]}"
        why = "" if layer.p50_ms is not None else _reason(report, "layers.p50_ms")
        title = f"{layer.network}: {layer.name}"
        yield Metric(key, title, "layers", "ms", "lower", layer.p50_ms, why)
