"""Python that runs on a board without lying there as a file."""

from __future__ import annotations

# `-c` looks for modules in the working folder first, where users may have a `random.py`. Python
# can leave that out since 3.11 only (-P); boards may be older.
_RUN = """
import sys
sys.path[:] = [folder for folder in sys.path if folder]
exec(compile(sys.argv.pop(1), "edgecompress", "exec"))
"""


def python(source: str, *arguments: str) -> list[str]:
    """The command that runs a script with a board's own Python.

    Args:
        source: the script's text.
        arguments: its `sys.argv[1:]`.
    """
    return ["python3", "-c", _RUN, source, *arguments]
