"""report.html: one page that tells a report to people, with nothing outside it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup

from edgecompress.files import write_bytes

from . import charts, compression, conditions, text, threshold
from .accuracy import match
from .cascade_section import cascade_sentences
from .compression_page import page_values
from .examples import Example, choose
from .foreground_section import foreground_sentences
from .glance import glances
from .peer_facts import cycles_of
from .report import Material, read_manifest
from .schema import Layer, Report
from .search_section import section_values
from .template import environment

SLOWEST = 12


def page_examples(material: Material) -> list[Example]:
    """The photos that the page shows, out of what the report was made of.

    Raises:
        InputError: the bundle has no manifest.
    """
    cascade = read_manifest(material.bundle).cascade
    answers = match(material.photos, material.run.records)
    return choose(answers, len(cascade.stages), cascade.labels)


def render_page(report: Report, examples: Sequence[Example] = ()) -> str:
    """The page as HTML. Everything that comes from the report is escaped."""
    data = threshold.slider_data(report)
    measurement = report.measurement
    compared = compression.checked((report.compression or {}).get("comparison"))
    stages = [[one for one in examples if one.stage == i] for i in range(len(report.stages))]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            report=report,
            stages=stages,
            charts=charts,
            text=text,
            cycles_of=cycles_of,
            heaviest=heaviest_layers(report.layers or []),
            glances=glances(report),
            measurement=measurement,
            drawn_conditions=conditions.conditions(measurement) if measurement else None,
            quantities=conditions.readable(measurement) if measurement else [],
            sample_rows=conditions.rows(measurement) if measurement else [],
            range_of=conditions.range_of,
            timed=any(layer.p50_ms is not None for layer in report.layers or []),
            short_name=text.short_name,
            zip=zip,
            slider_data=data,
            script=Markup(threshold.script()) if data else None,
            script_hash=threshold.script_hash() if data else None,
            **(page_values(compared) if compared else {"comparison": None}),
            **section_values(report.compression),
            cascade_told=list(cascade_sentences(report.compression)),
            foreground=list(foreground_sentences(report.compression)),
        )
    )


def write_page(report: Report, path: Path, examples: Sequence[Example] = ()) -> None:
    """Write the page."""
    # A class's name may be one that UTF-8 does not have.
    write_bytes(path, render_page(report, examples).encode(errors="backslashreplace"))


def heaviest_layers(layers: Sequence[Layer]) -> list[Layer]:
    """The layers that take longest; where none was timed, those of the most MACs."""
    timed = [layer for layer in layers if layer.p50_ms is not None]
    if timed:
        return sorted(timed, key=lambda layer: -(layer.p50_ms or 0.0))[:SLOWEST]
    return sorted(layers, key=lambda layer: -(layer.macs or 0))[:SLOWEST]
