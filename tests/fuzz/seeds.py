"""Good files to damage: what a real, tiny run leaves, and what users write."""

from __future__ import annotations

import dataclasses
import hashlib
import io
import json
import tarfile
from functools import partial
from pathlib import Path

import numpy as np
from PIL import Image

from edgecompress.files import building, cache_dir
from edgecompress.runner.machine import this_machine

ROOT = Path(__file__).parents[2]
_MADE_BY = ("bench", "runner", "compile", "tests/fuzz/seeds.py", "tests/conftest.py")


def seeds_folder() -> Path:
    """The folder of the seeds, made anew where the code that makes them has changed."""
    digest = hashlib.sha256()
    for name in _MADE_BY:
        path = ROOT / name
        for one in sorted(path.rglob("*.py")) if path.is_dir() else [path]:
            digest.update(one.read_bytes())
    folder = cache_dir("fuzz") / digest.hexdigest()[:16]
    if not folder.exists():
        with building(folder) as new:
            _make(new)
    return folder


def _make(folder: Path) -> None:
    from edgecompress.bench import history
    from edgecompress.bench.board_run import run_on_boards
    from edgecompress.bench.report import Material, build_report, write_report
    from edgecompress.cli.job import BenchTable, LatencyTable
    from edgecompress.compress.data.photos import PhotoSet
    from edgecompress.rpc import connect
    from edgecompress.runner.manifest import manifest_from_bytes
    from edgecompress.targets import load_board
    from tests.conftest import tiny_cascade

    tiny = tiny_cascade(folder, "host")
    with tarfile.open(tiny.bundle) as archive:
        stream = archive.extractfile("manifest.json")
        assert stream is not None
        manifest = stream.read()
    (folder / "manifest.json").write_bytes(manifest)
    _small_bundle(folder, manifest)
    photos = PhotoSet(
        "photos",
        tuple(_photos(folder / "photos")),
        (0, 1, 2),
        tuple(f"class {i}" for i in range(10)),
    )
    latency = LatencyTable(runs=6, seconds=0, retries=0, cool_seconds=0)
    options = BenchTable(threads=1, warmup=1, latency=latency, profile=True)
    boards = {"host": partial(connect, "host")}
    run = run_on_boards(boards, tiny.bundle, photos, folder / "board", options)
    reference = {key: run.records[key] for key in run.records}
    board = load_board("host")
    report = build_report(Material("tiny", board, tiny.bundle, photos, run, reference))
    write_report(report, folder / "report.json")
    for key in ("one", "two"):
        entry = dataclasses.replace(history.entry_of(report, "host"), key=key)
        history.append(folder / "history.sqlite", entry)
    history.append(folder / "history.sqlite", history.failure("tiny", "host", "int8", "it broke"))
    assert manifest_from_bytes(manifest).target.board == "host"


def _small_bundle(folder: Path, manifest: bytes) -> None:
    """A signed bundle as the builder writes it, with little in it."""
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from edgecompress.runner.signature import Trust, signature_file, signed_message, trust_text

    files = {f"networks/{name}.so": name.encode() * 300 for name in ("box", "small", "big")}
    files |= {"runner/main.py": b"pass\n", "runtime/a/b.so": bytes(1000)}
    value = json.loads(manifest)
    value["files"] = {
        name: {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content)}
        for name, content in files.items()
    }
    here = this_machine()
    value["target"] |= {"glibc": here.glibc or "2.28", "features": []}
    small = json.dumps(value).encode()
    key = Ed25519PrivateKey.from_private_bytes(b"fuzz" * 8)
    public = key.public_key().public_bytes_raw()
    signature = signature_file(public, key.sign(signed_message(small)))
    (folder / "trusted-keys").write_text(trust_text(Trust({public: "lab"}, required=True)))
    (folder / "manifest.sig").write_bytes(signature)
    (folder / "signed.json").write_bytes(small)
    with tarfile.open(folder / "small.tar", "w", format=tarfile.USTAR_FORMAT) as archive:
        members = {"manifest.json": small, "manifest.sig": signature, **files}
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))


def _photos(folder: Path) -> list[Path]:
    folder.mkdir()
    random = np.random.default_rng(1)
    paths = []
    for name in ("a.png", "b.jpg", "c.webp"):
        path = folder / name
        Image.fromarray(random.integers(0, 256, (24, 30, 3), dtype=np.uint8)).save(path)
        paths.append(path)
    return paths


PRETRAINED = b"""\
name = "demo"
board = "host"
[data]
photos = "imagenette"
[pretrained]
members = ["efficientnet_lite0.in1k"]
thresholds = []
[tune]
seconds = 60
trials = 10
cost = "time"
boards = ["a", "b"]
[quantize]
precision = "int8"
drop = 0.005
[bench]
limit = 100
threads = 4
cluster = "fast"
[deploy]
sign = "lab"
"""
INVENTORY = b"""\
[boards.kitchen]
board = "rpi4b"
host = "192.168.1.20"
port = 2222
user = "pi"
identity_file = "~/.ssh/id"
host_key = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA"
jump = "me@bastion:22,[fe80::1]"
workdir = "edge compress"
python = "3.13"
[boards.attic]
board = "rpi5"
host = "attic"
"""
SSH_CONFIG = b"""\
Include more
Host attic kitchen
  HostName 10.0.0.%h
  Port 2222
  User pi
  IdentityFile ~/.ssh/id_%r
  ProxyJump me@one:22,two
Match host one
  ProxyCommand nc %h %p
  ConnectTimeout 10
Host *
  ServerAliveInterval = 5
  HostKeyAlias "shelf"
  UserKnownHostsFile ~/.ssh/a ~/.ssh/b
"""
RUNNER_ERROR = b'{"kind": "bundle", "error": "it is broken", "hint": "mend it"}\n'
CPUS = b'{"cpus": [4, 5], "core": "cortex-a76", "found_by": "part", "available": 8}'
LEASE = json.dumps(
    {
        "boot": "b",
        "since": 1.0,
        "expires": 9e9,
        "owner": "me@host",
        "purpose": "bench",
        "token": "t",
    }
).encode()


def probe_answer() -> bytes:
    """What the probe's own script prints here."""
    from edgecompress.rpc import connect
    from edgecompress.rpc.probe import _SCRIPT  # pyright: ignore[reportPrivateUsage]
    from edgecompress.rpc.virtual_tree import cpuinfo
    from edgecompress.targets import load_board

    asked = json.dumps({"workdir": "/tmp", "temperature": "", "throttled": []})
    with connect("host") as session:
        told = session.run(["python3", "-c", _SCRIPT, asked], timeout=60).check("probe").stdout
    value = json.loads(told.strip().splitlines()[-1])
    board = load_board("virtual-pi4")
    value |= {"arch": "aarch64", "cpuinfo": cpuinfo(board), "cores": 4, "glibc": "2.36"}
    value["cpus"] = [["1800000", "32K", "1024K"]] * 4
    return json.dumps(value).encode()


def tuning_records() -> bytes:
    """Two lines of a tuning file."""
    from edgecompress.compile.records import Record, _to_line  # pyright: ignore[reportPrivateUsage]

    good = Record("ab", "llvm", "conv", [[["x", 1]], []], (1e-3, 2e-3), "", "host", "real")
    bad = dataclasses.replace(good, seconds=(), failure="it broke", trace=[[], []])
    return "".join(_to_line(one) for one in (good, bad)).encode()


def jobs() -> tuple[bytes, ...]:
    """The example jobs, and one with a little of everything."""
    examples = [path.read_bytes() for path in sorted((ROOT / "examples").glob("*.toml"))]
    return (*examples, PRETRAINED)


def photo_list() -> bytes:
    """A runner's list of photos."""
    return b"".join(b"%064d\tphotos/%d.jpg\n" % (index, index) for index in range(3))


def board_file() -> bytes:
    """A described board, as `boards probe` writes them."""
    return (ROOT / "targets/boards/rk3588.toml").read_bytes()
