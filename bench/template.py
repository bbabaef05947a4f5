"""What fills in the templates of pages."""

from __future__ import annotations

from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined

from . import text

TEMPLATES = Path(__file__).parent / "templates"


def environment() -> Environment:
    """What fills in a page's template: everything is escaped, and nothing may be missing."""
    made = Environment(
        loader=FileSystemLoader(TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters.update(
        percent=text.percent, macs=text.macs, ms=text.milliseconds, mb=text.megabytes
    )
    return made
