"""What this machine's apt is set up with, so that packages come from where the user wants them."""

from __future__ import annotations

import subprocess
from pathlib import Path

SOURCES = Path("/etc/apt")
# Proxies, certificates and the like; the rest of apt's settings is this machine's own affair.
_OPTIONS = ("Acquire::http", "Acquire::https", "Acquire::Check-", "Acquire::Retries")


def acquire_options() -> list[str]:
    """The options of apt that say how to reach a mirror, as lines of apt.conf."""
    try:
        dump = subprocess.run(
            ["apt-config", "dump", "Acquire"], capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        return []
    lines = [line.rstrip(";") for line in dump.splitlines()]
    return [line for line in lines if line.startswith(_OPTIONS) and not line.endswith(' ""')]


def mirrors(suite: str) -> list[str]:
    """The machine's own sources of a Debian suite, as one-line entries.

    Empty where it has none (another distribution): mmdebstrap then takes Debian's own mirror.
    """
    found = []
    for path in sorted([SOURCES / "sources.list", *(SOURCES / "sources.list.d").glob("*")]):
        try:
            text = path.read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        if path.suffix == ".sources":
            found += _deb822(text, suite)
        elif path.suffix == ".list":
            found += _one_line(text, suite)
    return list(dict.fromkeys(found))


def _wanted(name: str, suite: str) -> bool:
    return name in (suite, f"{suite}-updates", f"{suite}-security")


def _deb822(text: str, suite: str) -> list[str]:
    lines = [line for line in text.splitlines() if not line.startswith("#")]
    entries = []
    for stanza in "\n".join(lines).split("\n\n"):
        pairs = [line.partition(":") for line in stanza.splitlines()]
        fields = {key.strip().lower(): value.strip() for key, _, value in pairs}
        if "debian" not in fields.get("signed-by", "") or fields.get("enabled") == "no":
            continue
        components = fields.get("components", "main")
        entries += [
            f"deb {uri} {name} {components}"
            for uri in fields.get("uris", "").split()
            for name in fields.get("suites", "").split()
            if _wanted(name, suite)
        ]
    return entries


def _one_line(text: str, suite: str) -> list[str]:
    entries = []
    for line in text.splitlines():
        words = [word for word in line.split("#")[0].split() if not word.startswith("[")]
        if len(words) >= 4 and words[0] == "deb" and _wanted(words[2], suite):
            entries.append(" ".join(words))
    return entries
