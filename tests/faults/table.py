"""The table of docs/reliability.md, from what the tests of faults have measured.

`python tests/faults/table.py MEASURED.jsonl DOC.md` puts it between the two marks of the page.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

BEGIN, END = "<!-- table: make reliability -->", "<!-- end of table -->"
HEAD = "| fault | what happens | seconds | promised | test |\n|---|---|---:|---:|---|\n"


def table(lines: list[dict[str, Any]]) -> str:
    """Markdown, a row for each fault in the order in which it was first met; the last time counts.

    Args:
        lines: what `Scene.row` has noted.
    """
    rows = {line["fault"]: line for line in lines}
    return HEAD + "".join(
        f"| {row['fault']} | {row['outcome']} | {row['seconds']:.1f} | {row['limit']:g} |"
        f" `{row['test']}` |\n"
        for row in rows.values()
    )


def inserted(page: str, made: str) -> str:
    """The page with another table."""
    before, _, rest = page.partition(BEGIN)
    _, found, after = rest.partition(END)
    if not found:
        raise SystemExit(f"the page lacks a line {BEGIN} or {END}")
    return f"{before}{BEGIN}\n\n{made}\n{END}{after}"


if __name__ == "__main__":
    measured, page = map(Path, sys.argv[1:])
    noted = [json.loads(line) for line in measured.read_text().splitlines()]
    page.write_text(inserted(page.read_text(), table(noted)))
