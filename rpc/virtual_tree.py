"""The disk of the virtual Raspberry Pi 4: arm64 Debian made from packages, none of them executed.

Packages are unpacked without their maintainer scripts (they are of another architecture), and what
those would have written, accounts and a few settings, is written here. The result is packed into
the cache under a fingerprint of the recipe, so that it is made once.
"""

from __future__ import annotations

import compileall
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from edgecompress import events, wheels
from edgecompress.errors import BoardError
from edgecompress.files import building, sha256_json, writing
from edgecompress.wheels import Wheel

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

# As Linux prints it on a Raspberry Pi 4 (Cortex-A72 r0p3; no crypto extension).
_CPU = """\
processor\t: {index}
BogoMIPS\t: 108.00
Features\t: fp asimd evtstrm crc32 cpuid
CPU implementer\t: 0x41
CPU architecture: 8
CPU variant\t: 0x0
CPU part\t: 0xd08
CPU revision\t: 3

"""
CORES = 4
_CPUINFO = "".join(_CPU.format(index=index) for index in range(CORES))
MODEL = "Raspberry Pi 4 Model B (virtual)"
_CACHES = (("1", "Data", "32K"), ("1", "Instruction", "48K"), ("2", "Unified", "1024K"))

_CONFIGURATION = Path(__file__).with_name("virtual_sshd.conf")


def fingerprint() -> str:
    """Changes when anything that this module puts into the tree changes."""
    own = hashlib.sha256(Path(__file__).read_bytes()).hexdigest()
    python = sys.version_info[:2]
    return sha256_json([own, _CONFIGURATION.read_text(), os.geteuid() == 0, python])[:16]


def ensure_tree(folder: Path) -> Path:
    """The board's unpacked disk below `folder`, made from packages or from the cached archive.

    Raises:
        BoardError: packages cannot be fetched, or there is no space.
        InputError: a wheel cannot be fetched.
    """
    key = fingerprint()
    tree, packed = folder / f"tree-{key}", folder / f"tree-{key}.tar.gz"
    if tree.is_dir():
        return tree
    _forget_others(folder, key)
    if packed.exists():
        with events.task("unpacking the virtual board"), building(tree) as new:
            _call(["tar", "-xzf", str(packed), "-C", str(new)], "cannot unpack the virtual board")
        return tree
    with events.task("building the virtual board (once; about a minute)") as task:
        with building(tree) as new:
            task.say("arm64 packages")
            _unpack_packages(new)
            task.say("wheels")
            _install_wheels(new)
            task.say("settings")
            _settle(new)
        task.say("packing")
        with writing(packed) as archive:
            command = ["tar", "--numeric-owner", "--exclude=./dev/*", "-I", "gzip -1"]
            _call([*command, "-cf", str(archive), "-C", str(tree), "."], "cannot pack the board")
    return tree


def _forget_others(folder: Path, key: str) -> None:
    """Remove what older recipes left."""
    for path in folder.glob("tree-*"):
        if path.name.split(".")[0] != f"tree-{key}":
            if path.is_dir():
                shutil.rmtree(path, ignore_errors=True)
            else:
                path.unlink(missing_ok=True)


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


def _settle(tree: Path) -> None:
    """Accounts, names, and the files in which a Pi describes its hardware."""
    etc = tree / "etc"
    environment = ["QEMU_CPU=cortex-a72"]
    if not same_python():
        environment.append("PYTHONPYCACHEPREFIX=/var/cache/python")
    texts = {
        "passwd": _PASSWD,
        "group": _GROUP,
        "shadow": _SHADOW,
        "hostname": "virtual-pi4\n",
        "hosts": "127.0.0.1 localhost virtual-pi4\n",
        "virtual/cpuinfo": _CPUINFO,
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
    (tree / "proc/cpuinfo").write_text(_CPUINFO)
    _describe_hardware(tree / "sys")


def _describe_hardware(sys_folder: Path) -> None:
    cpu = sys_folder / "devices/system/cpu"
    files = {cpu / name: f"0-{CORES - 1}\n" for name in ("possible", "present", "online")}
    for core in range(CORES):
        for index, values in enumerate(_CACHES):
            for name, value in zip(("level", "type", "size"), values, strict=True):
                files[cpu / f"cpu{core}/cache/index{index}/{name}"] = f"{value}\n"
    files[sys_folder / "firmware/devicetree/base/model"] = MODEL
    for path, text in files.items():
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def _call(command: list[str], what: str, hint: str = "") -> None:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        reason = next((line for line in lines if line.startswith("E:")), lines[-1] if lines else "")
        raise BoardError(f"{what}: {reason or f'{command[0]} failed'}", hint)
