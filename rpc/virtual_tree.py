"""The disks of the virtual boards: arm64 Debian made from packages, none of them executed.

Packages are unpacked without their maintainer scripts (they are of another architecture), and what
those would have written, accounts and a few settings, is written here. The userland is packed into
the cache under a fingerprint of the recipe, so that it is made once for all boards.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from dataclasses import asdict
from pathlib import Path

from filelock import FileLock

from edgecompress import events, wheels
from edgecompress.errors import BoardError
from edgecompress.files import building, cache_dir, sha256_json, writing
from edgecompress.wheels import Wheel

from ..targets import Board, Emulation
from ..targets.cores import part_of
from .apt import acquire_options, mirrors

SUITE = "bookworm"
PYTHON = "3.11"
USER = "pi"
UID = 1000

# What Raspberry Pi OS Lite has of these, by name, as far as a session, a runner and the peers need.
PACKAGES = [
    "base-files",
    "bash",
    "ca-certificates",
    "coreutils",
    "dash",
    "diffutils",
    "findutils",
    "grep",
    "gzip",
    "hostname",
    "libatomic1",
    "libc-bin",
    "libgomp1",
    "libstdc++6",
    "mawk",
    "openssh-server",
    "openssh-sftp-server",
    "procps",
    "python3",
    "sed",
    "tar",
    "util-linux",
]

_PLATFORMS = ("manylinux_2_28_aarch64", "manylinux_2_27_aarch64", "manylinux2014_aarch64")
WHEELS = (
    Wheel("numpy==2.2.6", None, _PLATFORMS, PYTHON),
    Wheel("pillow==11.3.0", None, _PLATFORMS, PYTHON),
)

_UNUSED = [
    "usr/share/doc",
    "usr/share/man",
    "usr/share/locale",
    "usr/share/info",
    "usr/share/zoneinfo",
    "var/lib/apt",
    "var/cache/apt",
    "usr/lib/python3.11/lib2to3",
    "usr/lib/python3.11/pydoc_data",
    "etc/resolv.conf",
]

# Debian's layout: /bin, /lib and /sbin are links into /usr. A shell command, with the tree as $1.
_MERGED = 'for d in bin lib sbin; do mkdir -p "$1/usr/$d" && ln -s "usr/$d" "$1/$d"; done'

_PASSWD = f"""\
root:x:0:0:root:/root:/bin/bash
sshd:x:100:65534::/run/sshd:/usr/sbin/nologin
nobody:x:65534:65534:nobody:/nonexistent:/usr/sbin/nologin
{USER}:x:{UID}:{UID}::/home/{USER}:/bin/bash
"""
_GROUP = f"root:x:0:\ntty:x:5:\nnogroup:x:65534:\n{USER}:x:{UID}:\n"
_SHADOW = f"root:*:19700::::::\nsshd:*:19700::::::\n{USER}:*:19700::::::\n"

# A core as Linux prints it.
_CPU = """\
processor\t: {index}
BogoMIPS\t: 108.00
Features\t: {flags}
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: {variant:#x}
CPU part\t: {part}
CPU revision\t: {revision}

"""

_CONFIGURATION = Path(__file__).with_name("virtual_sshd.conf")


def fingerprint(board: Board) -> str:
    """Changes when anything that this module puts into a board's tree changes."""
    return sha256_json([_userland_key(), _CONFIGURATION.read_text(), asdict(board)])[:16]


def _userland_key() -> str:
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    return sha256_json([own, os.geteuid() == 0, sys.version_info[:2]])[:16]


def ensure_tree(folder: Path, board: Board) -> Path:
    """A board's unpacked disk below `folder`: the userland that all share, and its own settings.

    Raises:
        BoardError: packages cannot be fetched, or there is no space.
        InputError: a wheel cannot be fetched.
    """
    tree = folder / f"tree-{fingerprint(board)}"
    if tree.is_dir():
        return tree
    packed = _ensure_userland()
    with events.task(f"unpacking the disk of {board.name}"), building(tree) as new:
        _call(["tar", "-xzf", str(packed), "-C", str(new)], "cannot unpack the virtual board")
        _settle(new, board)
    return tree


def forget_others(folder: Path, tree: Path) -> None:
    """Remove what older recipes left in a board's folder; it must not run."""
    for path in folder.glob("tree-*"):
        if path.is_dir() and path != tree:
            shutil.rmtree(path, ignore_errors=True)
        elif path != tree:
            path.unlink(missing_ok=True)


def userland() -> Path:
    """Where the packed userland lies, or will."""
    return cache_dir("virtual") / f"userland-{_userland_key()}.tar.gz"


def _ensure_userland() -> Path:
    packed = userland()
    with FileLock(packed.parent / ".lock"):
        if packed.exists():
            return packed
        for old in packed.parent.glob("userland-*"):
            old.unlink(missing_ok=True)
        with (
            events.task("building the virtual boards' userland (once; about a minute)") as task,
            tempfile.TemporaryDirectory(dir=packed.parent) as temporary,
            writing(packed) as archive,
        ):
            tree = Path(temporary)
            task.say("arm64 packages")
            _unpack_packages(tree)
            task.say("wheels")
            _install_wheels(tree)
            task.say("packing")
            command = ["tar", "--numeric-owner", "--exclude=./dev/*", "-I", "gzip -1"]
            _call([*command, "-cf", str(archive), "-C", str(tree), "."], "cannot pack the board")
    return packed


def _unpack_packages(tree: Path) -> None:
    command = ["mmdebstrap", "--quiet", "--variant=extract", "--architectures=arm64"]
    command += [f"--setup-hook={_MERGED}"]
    command += [] if os.geteuid() == 0 else ["--mode=chrootless"]
    command += [f"--include={','.join(PACKAGES)}"]
    command += [f"--aptopt={option}" for option in acquire_options()]
    with tempfile.TemporaryDirectory(dir=tree.parent) as temporary:
        target = Path(temporary) / "root"
        _call(
            [*command, SUITE, str(target), *mirrors(SUITE)],
            "cannot fetch the virtual board's packages",
            "check the network and the machine's apt sources: sudo apt update",
        )
        for path in target.iterdir():
            path.rename(tree / path.name)
    for name in _UNUSED:
        path = tree / name
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink(missing_ok=True)


def _install_wheels(tree: Path) -> None:
    packages = tree / f"usr/local/lib/python{PYTHON}/dist-packages"
    for wheel in WHEELS:
        wheels.extract(wheel, lambda name: "/tests/" not in name, packages)
    if same_python():
        # Compiled here: under emulation it takes ten times as long, and `pi` may not write there.
        for place in (tree / f"usr/lib/python{PYTHON}", packages):
            compileall.compile_dir(place, quiet=2, stripdir=str(tree), workers=0)


def same_python() -> bool:
    """Whether this interpreter's byte code is that of the board."""
    return ".".join(map(str, sys.version_info[:2])) == PYTHON


def _settle(tree: Path, board: Board) -> None:
    """Accounts, names, and the files in which a board describes its hardware."""
    emulation = emulation_of(board)
    etc = tree / "etc"
    environment = [f"QEMU_CPU={emulation.cpu}"]
    if not same_python():
        environment.append("PYTHONPYCACHEPREFIX=/var/cache/python")
    texts = {
        "passwd": _PASSWD,
        "group": _GROUP,
        "shadow": _SHADOW,
        "hostname": f"{board.name}\n",
        "hosts": f"127.0.0.1 localhost {board.name}\n",
        "virtual/cpuinfo": cpuinfo(board),
        "ssh/sshd_config": f"{_CONFIGURATION.read_text()}SetEnv {' '.join(environment)}\n",
    }
    for name, text in texts.items():
        path = etc / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.unlink(missing_ok=True)
        path.write_text(text)
    for name in ("proc", "sys", "dev", "run", "run/sshd", "tmp", "var/cache/python", "root"):
        (tree / name).mkdir(parents=True, exist_ok=True)
    for name in ("tmp", "var/cache/python"):
        (tree / name).chmod(0o1777)
    home = tree / "home" / USER
    home.mkdir(parents=True, exist_ok=True)
    if os.geteuid() == 0:
        os.chown(home, UID, UID)
    # Programs that are run out of the tree without starting the board look here.
    (tree / "proc/cpuinfo").write_text(cpuinfo(board))
    _describe_hardware(tree / "sys", board)


def emulation_of(board: Board) -> Emulation:
    """How a virtual board is emulated."""
    assert board.emulation is not None, f"{board.name} is no virtual board"
    return board.emulation


def cpuinfo(board: Board) -> str:
    """/proc/cpuinfo as Linux prints it on such a board."""
    emulation = emulation_of(board)
    variant, _, revision = emulation.revision.removeprefix("r").partition("p")
    cores = [cluster.core for cluster in board.clusters for _ in range(cluster.cores)]
    return "".join(
        _CPU.format(
            index=index,
            flags=" ".join(emulation.flags),
            variant=int(variant),
            part=part_of(core) or "0x000",
            revision=revision,
        )
        for index, core in enumerate(cores)
    )


def _describe_hardware(sys_folder: Path, board: Board) -> None:
    cpu = sys_folder / "devices/system/cpu"
    clusters = [cluster for cluster in board.clusters for _ in range(cluster.cores)]
    last = len(clusters) - 1
    files = {cpu / name: f"0-{last}\n" for name in ("possible", "present", "online")}
    for index, cluster in enumerate(clusters):
        caches = (("1", "Data", cluster.l1d_kib), ("2", "Unified", cluster.l2_kib))
        for place, (level, kind, size) in enumerate(caches):
            cache = cpu / f"cpu{index}/cache/index{place}"
            files |= {cache / "level": f"{level}\n", cache / "type": f"{kind}\n"}
            files[cache / "size"] = f"{size}K\n"
    files[sys_folder / "firmware/devicetree/base/model"] = emulation_of(board).model
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _call(command: list[str], what: str, hint: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "")
        raise BoardError(f"{what}: {reason or f'{command[0]} failed'}", hint)
