"""Registering QEMU as the kernel's interpreter of arm64 programs (binfmt_misc)."""

from __future__ import annotations

import platform
import shutil
import subprocess
from pathlib import Path

QEMU = "qemu-aarch64-static"
FOLDER = Path("/proc/sys/fs/binfmt_misc")
NAME = "edgecompress-aarch64"

# The first 20 bytes of an arm64 ELF file and which of their bits count: 64-bit, little-endian,
# executable or shared object, machine 0xb7. The byte of the operating system's ABI is free.
_MAGIC = rb"\x7fELF\x02\x01\x01\x00" + rb"\x00" * 8 + rb"\x02\x00\xb7\x00"
_MASK = rb"\xff\xff\xff\xff\xff\xff\xff\x00" + rb"\xff" * 8 + rb"\xfe\xff\xff\xff"
# F: the interpreter is opened now, so that it need not exist in the board's own tree.
# O and C: hand over the open file and its credentials.
_FLAGS = "FOC"


def ensure_registered() -> str:
    """Make the kernel run arm64 programs; returns "" or, where that cannot be, the reason."""
    if platform.machine() == "aarch64" or _registered():
        return ""
    interpreter = shutil.which(QEMU)
    if interpreter is None:
        return f"{QEMU} is not installed"
    if not (FOLDER / "register").exists():
        mounted = subprocess.run(
            ["mount", "-t", "binfmt_misc", "binfmt_misc", str(FOLDER)],
            capture_output=True,
            text=True,
            check=False,
        )
        if mounted.returncode != 0:
            return f"binfmt_misc cannot be mounted: {mounted.stderr.strip()}"
    path = str(Path(interpreter).resolve()).encode()
    entry = b":".join([b"", NAME.encode(), b"M", b"", _MAGIC, _MASK, path, _FLAGS.encode()])
    try:
        (FOLDER / "register").write_bytes(entry)
    except FileExistsError:
        pass
    except OSError as error:
        return f"binfmt_misc takes no entry: {error.strerror}"
    return "" if _registered() else "binfmt_misc is switched off"


def _registered() -> bool:
    """Whether some entry, ours or the distribution's, runs arm64 programs in any tree."""
    try:
        if (FOLDER / "status").read_text().strip() != "enabled":
            return False
        entries = [path for path in FOLDER.iterdir() if path.name not in ("register", "status")]
        return any(_fits(path.read_text()) for path in entries)
    except OSError:
        return False


def _fits(entry: str) -> bool:
    lines = entry.splitlines()
    flags = next((line.split(":", 1)[1] for line in lines if line.startswith("flags:")), "")
    magic = next((line.split()[1] for line in lines if line.startswith("magic ")), "")
    aarch64 = magic.startswith("7f454c460201") and magic.endswith("0200b700")
    return lines[0] == "enabled" and aarch64 and "F" in flags
