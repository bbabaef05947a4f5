"""Numbers as people read them, and the summary table of a report."""

from __future__ import annotations

from .schema import Report, Scores

NOTHING = "not measured"


def percent(share: float | None, digits: int = 1) -> str:
    """`0.8125` as "81.2 %"."""
    return NOTHING if share is None else f"{share * 100:.{digits}f} %"


def macs(count: float | None) -> str:
    """`557134806` as "557 M"; from a thousand millions on "1.23 G"."""
    if count is None:
        return NOTHING
    if count >= 1e9:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.3g} M" if count < 1e8 else f"{count / 1e6:.0f} M"


def megabytes(count: float) -> str:
    """Bytes as "8.7 MB" (millions of bytes)."""
    return f"{count / 1e6:.1f} MB"


def milliseconds(value: float | None) -> str:
    """Three figures: "0.0123 ms", "38.5 ms", "512 ms"."""
    if value is None:
        return NOTHING
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def interval(scores: Scores) -> str:
    """The 95 % interval of top-1: "76.4 to 99.1 %"."""
    if scores.top1_interval is None:
        return NOTHING
    low, high = scores.top1_interval
    return f"{low * 100:.1f} to {high * 100:.1f} %"


def short_name(network: str) -> str:
    """A network's name without its underscores."""
    return network.replace("_", " ")


def summary(report: Report) -> list[tuple[str, str]]:
    """The rows of the table that ends a job: what, and how much."""
    accuracy, latency = report.accuracy, report.latency_ms.get("total")
    emulated = " (emulated: not comparable)" if report.emulated else ""
    rows = [
        ("board", f"{report.board.title} ({report.board.name})"),
        ("photos", f"{accuracy.n} of {accuracy.photos}" + _failed(accuracy.failed)),
        ("top-1 on the board", f"{percent(accuracy.top1)} (95 %: {interval(accuracy)})"),
    ]
    if accuracy.reference is not None:
        rows.append(("top-1 in PyTorch", percent(accuracy.reference.top1)))
    if report.agreement is not None:
        rows.append(
            ("same answer as PyTorch", f"{percent(report.agreement.top1)} of {report.agreement.n}")
        )
    if latency is not None:
        times = f"{milliseconds(latency.p50)}, p90 {milliseconds(latency.p90)}"
        rows.append(("latency p50", times + emulated))
    for stage in report.stages:
        rows.append((f"answered by {stage.network}", percent(stage.hit_rate)))
    rows.append(("MACs a photo", _macs(report)))
    rows.append(("memory, highest", f"{report.memory.peak_rss_mib:.0f} MiB"))
    size = f"{megabytes(report.bundle.size_bytes)}, of it runtime"
    rows.append(("bundle", f"{size} {megabytes(report.bundle.runtime_bytes)}"))
    if report.tuning is not None:
        rows.append(("tuned layers", f"{report.tuning.tuned_layers} of {report.tuning.layers}"))
    return rows


def _failed(count: int) -> str:
    return f", {count} more could not be read" if count else ""


def _macs(report: Report) -> str:
    mean, saved = report.macs.mean, report.macs.saved
    if mean is None or saved is None:
        return macs(mean)
    word = "saved" if saved >= 0 else "more"
    return f"{macs(mean)} ({percent(abs(saved))} {word} against the last member alone)"
