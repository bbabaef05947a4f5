"""report.md: a report as short Markdown, for a pull request."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from edgecompress.files import write_text

from . import text
from .cascade_section import cascade_sentences
from .charts import latency_rows
from .compare import precision_of, throttled
from .foreground_section import foreground_sentences
from .glance import verdict
from .markdown import code, escape, table
from .schema import Precision, Report, Scores
from .search_section import sentences

_EMULATED = (
    "Emulated board: answers are those of a real ARM program, times are an emulator's and compare"
    " with no other time."
)


def report_markdown(report: Report) -> str:
    """The whole text. Everything that comes from the report is escaped."""
    lines = [f"## {escape(report.name)} on {escape(report.board.title)}", "", _where(report)]
    lines += ["", *(f"> **Warning:** {one}" for one in _warnings(report))]
    lines += ["", *_accuracy(report)]
    lines += ["", *_latency(report)]
    lines += ["", *_flow(report)]
    if report.precision is not None:
        lines += ["", *_precision(report.precision)]
    told = (*foreground_sentences(report.compression), *sentences(report.compression))
    lines += ["", *(f"- {escape(one)}" for one in told)]
    lines += ["", *(f"- {escape(one)}" for one in cascade_sentences(report.compression))]
    lines += ["", *_provenance(report)]
    return "\n".join(_single_gaps(lines)) + "\n"


def write_markdown(report: Report, path: Path) -> None:
    """Write report.md."""
    write_text(path, report_markdown(report))


def _single_gaps(lines: list[str]) -> Iterator[str]:
    for index, line in enumerate(lines):
        if line or lines[index - 1]:
            yield line


def _where(report: Report) -> str:
    run, board = report.run, report.board
    model = f", which says it is {escape(board.model)}" if board.model else ""
    return (
        f"{report.accuracy.n} photos of {escape(report.accuracy.photos)} on {escape(board.soc)}"
        f" ({escape(board.mcpu)}){model}; {run.threads} thread{'s' * (run.threads != 1)} on"
        f" {escape(text.cpus(run))}; {precision_of(report)}."
        + "".join(
            f" {escape(told)}."
            for told in (
                f"Photos answered by: {text.shares(run)}" * bool(text.shares(run)),
                text.repeats(run),
            )
            if told
        )
    )


def _warnings(report: Report) -> Iterator[str]:
    if report.emulated:
        yield _EMULATED
    if report.measurement and report.measurement.doubts and not report.emulated:
        yield f"The times are {escape(verdict(report))}."
    elif slow := throttled(report):
        yield f"The board was throttled ({escape(', '.join(slow))}): its times are not its own."
    if report.accuracy.failed:
        yield f"{report.accuracy.failed} photos could not be classified and count in nothing."
    if report.precision and report.precision.shared:
        yield (
            f"{report.precision.shared} of the photos were among those that int8 was fitted to:"
            " this is not the accuracy of photos that nothing was fitted to."
        )


def _share(scores: Scores | None, which: str) -> str:
    value = None if scores is None else getattr(scores, which)
    span = None if scores is None else getattr(scores, f"{which}_interval")
    if value is None or span is None:
        return text.NOTHING
    return f"{text.percent(value)} ({span[0] * 100:.1f} to {span[1] * 100:.1f})"


def _accuracy(report: Report) -> list[str]:
    reference = report.accuracy.reference
    pytorch = "PyTorch, float32" if report.precision else "PyTorch"
    rows = [
        [name, _share(report.accuracy, which), _share(reference, which)]
        for name, which in (("top-1", "top1"), ("top-5", "top5"))
    ]
    if report.agreement is not None:
        same = text.percent(report.agreement.top1)
        rows.append(["same top-1", same, f"of {report.agreement.n} photos"])
    columns = ["accuracy (95 % interval)", ">board", f">{pytorch}"]
    if onnx := report.accuracy.onnx:
        agreed = report.accuracy.onnx_agreement
        same = [f"{text.percent(agreed.top1)} of {agreed.n} photos" if agreed else text.NONE]
        beside = [_share(onnx, "top1"), _share(onnx, "top5"), *same]
        rows = [[*row, more] for row, more in zip(rows, beside, strict=False)]
        columns.append(">ONNX Runtime")
    return table(columns, rows)


def _latency(report: Report) -> list[str]:
    if not report.latency_ms:
        return []
    rows = [
        [
            code(part),
            text.NONE if times.p10 is None else text.milliseconds(times.p10),
            *(text.milliseconds(one) for one in (times.p50, times.p90, times.p99, times.mean)),
            str(times.n),
        ]
        for part, times in latency_rows(report)
    ]
    told = report.measurement
    mark = " (emulated: not comparable)" if report.emulated else f" ({told.trust})" if told else ""
    return table([f"latency{mark}", ">p10", ">p50", ">p90", ">p99", ">mean", ">n"], rows)


def _flow(report: Report) -> list[str]:
    rows = [
        [
            code(stage.network),
            f"{stage.resolution} px",
            f"{stage.hits} ({text.percent(stage.hit_rate)})",
            text.NONE if stage.top1 is None else text.percent(stage.top1),
            text.macs(stage.macs),
        ]
        for stage in report.stages
    ]
    saved = "" if report.macs.saved is None else f", {text.percent(report.macs.saved)} saved"
    lines = table(["member", ">input", ">answered", ">right", ">MACs"], rows)
    return [*lines, "", f"{text.macs(report.macs.mean)} MACs a photo on average{saved}."]


def _precision(precision: Precision) -> list[str]:
    if precision.precision != "int8":
        return [f"Computed in {precision.precision}, without a gate."]
    rows = [
        [
            code(one.network),
            text.NONE if one.int8 is None else f"{one.int8} of {one.layers}",
            text.NONE if one.expected_drop is None else text.percent(one.expected_drop, 2),
            text.NONE if one.agreement is None else text.percent(one.agreement),
        ]
        for one in precision.networks
    ]
    allowed = text.percent(precision.allowed_drop, 2)
    columns = ["int8", ">layers", f">expected drop (allowed {allowed})", ">same answer"]
    return table(columns, rows)


def _provenance(report: Report) -> list[str]:
    versions = ", ".join(f"{name} {value}" for name, value in sorted(report.versions.items()))
    peak = f"{report.memory.peak_rss_mib:.0f} MiB of memory"
    lines = [
        "<details><summary>Provenance</summary>",
        "",
        f"- made {escape(report.created)} from bundle {code(report.bundle.sha256)},"
        f" {text.megabytes(report.bundle.size_bytes)}, {peak}",
        f"- {escape(versions)}",
    ]
    if report.tuning is not None:
        tuned = f"- {report.tuning.tuned_layers} of {report.tuning.layers} layers tuned"
        lines.append(tuned)
    lines += [f"- {escape(name)}: {escape(value)}" for name, value in sorted(report.origin.items())]
    return [*lines, "", "</details>"]
