"""Runs a command in a way that proot can follow: `python traceable.py COMMAND...`.

proot works by tracing. OpenSSH's SFTP server makes itself undumpable, after which the kernel lets
nobody but root trace it, and every path that it asks for fails under proot. And proot does not know
`statx`, whose paths it leaves as they are. A seccomp filter answers `prctl(PR_SET_DUMPABLE)` with
success, without doing it, and `statx` with ENOSYS, so that callers fall back to `fstatat`.

Run as a file, not as a module: it replaces itself by the command at once.
"""

from __future__ import annotations

import ctypes
import errno
import os
import platform
import struct
import sys

# Linux's numbers: <linux/prctl.h>, <linux/seccomp.h>, <linux/filter.h>, <linux/audit.h>.
PR_SET_DUMPABLE, PR_SET_SECCOMP, PR_SET_NO_NEW_PRIVS = 4, 22, 38
SECCOMP_MODE_FILTER = 2
RET_ALLOW, RET_ERRNO = 0x7FFF0000, 0x00050000
LOAD_WORD, JUMP_IF_EQUAL, RETURN = 0x20, 0x15, 0x06
# The kernel's name for the architecture, and its numbers of prctl and statx.
CALLS = {"x86_64": (0xC000003E, 157, 332), "aarch64": (0xC00000B7, 167, 291)}
# Offsets in struct seccomp_data: number of the call, architecture, low word of its first argument.
NUMBER, ARCHITECTURE, FIRST = 0, 4, 16


def program(machine: str) -> bytes:
    """The filter: struct sock_filter entries (code, jump if true, jump if false, constant)."""
    architecture, prctl, statx = CALLS[machine]
    entries = [
        (LOAD_WORD, 0, 0, ARCHITECTURE),
        (JUMP_IF_EQUAL, 0, 7, architecture),
        (LOAD_WORD, 0, 0, NUMBER),
        (JUMP_IF_EQUAL, 4, 0, statx),
        (JUMP_IF_EQUAL, 0, 4, prctl),
        (LOAD_WORD, 0, 0, FIRST),
        (JUMP_IF_EQUAL, 0, 2, PR_SET_DUMPABLE),
        (RETURN, 0, 0, RET_ERRNO),
        (RETURN, 0, 0, RET_ERRNO | errno.ENOSYS),
        (RETURN, 0, 0, RET_ALLOW),
    ]
    return b"".join(struct.pack("<HBBI", *entry) for entry in entries)


def main() -> None:
    """Install the filter and become the command."""
    code = ctypes.create_string_buffer(program(platform.machine()))
    entries = (len(code) - 1) // 8
    header = ctypes.create_string_buffer(struct.pack("@HP", entries, ctypes.addressof(code)))
    prctl = ctypes.CDLL(None, use_errno=True).prctl
    prctl.argtypes = [ctypes.c_int, *[ctypes.c_ulong] * 4]
    failed = prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) or prctl(
        PR_SET_SECCOMP, SECCOMP_MODE_FILTER, ctypes.addressof(header), 0, 0
    )
    if failed:
        sys.exit(f"seccomp: {os.strerror(ctypes.get_errno())}")
    os.execvp(sys.argv[1], sys.argv[1:])


if __name__ == "__main__":
    main()
