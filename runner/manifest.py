"""A bundle's manifest: every file's hash and size, and what the bundle needs of the machine.

Read as untrusted input: nothing of a bundle is used before its manifest has passed.
"""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import PurePosixPath
from typing import Any

from .cpus import CHOICES, Cluster
from .errors import RunnerError
from .signature import SIGNATURE
from .spec import Cascade, cascade_from_json

FORMAT = 1
KIND = "edgecompress-bundle"
NAME = "manifest.json"

MAX_MANIFEST = 32 << 20
MAX_FILES = 2000
MAX_TOTAL = 2 << 30
"""Limits in bytes and files: far above any bundle, far below what fills a board."""
MAX_CLUSTERS, MAX_CORES = 8, 1024

_SHA256 = re.compile(r"[0-9a-f]{64}\Z")
_ARM_PART = re.compile(r"(0x[0-9a-f]{3})?\Z")
_PART = re.compile(r"[A-Za-z0-9_+][A-Za-z0-9_.+-]*\Z")


@dataclasses.dataclass(frozen=True)
class Entry:
    """A file's SHA-256 (hexadecimal) and size in bytes."""

    sha256: str
    size: int


@dataclasses.dataclass(frozen=True)
class Target:
    """What the compiled code and the runtime were made for.

    Attributes:
        board: the board description's name.
        title: what people call it.
        arch: as `uname -m` prints it.
        triple: LLVM target triple.
        mcpu: LLVM cpu name.
        mattr: LLVM features, each with its sign.
        features: flags that /proc/cpuinfo must show.
        glibc: the oldest C library that will do ("2.28").
        python: the only Python that will do ("3.11").
        clusters: the board's cores by sort, fastest first; may be empty.
        cluster: which of them the code was made for, one of `cpus.CHOICES`.
    """

    board: str
    title: str
    arch: str
    triple: str
    mcpu: str
    mattr: tuple[str, ...]
    features: tuple[str, ...]
    glibc: str
    python: str
    clusters: tuple[Cluster, ...] = ()
    cluster: str = CHOICES[0]


@dataclasses.dataclass(frozen=True)
class Manifest:
    """The whole manifest.

    Attributes:
        files: path inside the bundle (with `/`) to its entry; all files but the manifest itself.
        target: the machine that it is for.
        versions: of `edgecompress`, `tvm` and `tvm_ffi`, and others for the record.
        cascade: networks, geometry, preprocessing, labels, thresholds, MACs.
        networks: of each network, what the compiler said of it (layers, schedules, tuning).
        origin: where the numbers came from, for the report.
    """

    files: dict[str, Entry]
    target: Target
    versions: dict[str, str]
    cascade: Cascade
    networks: dict[str, dict[str, Any]]
    origin: dict[str, str]

    def to_bytes(self) -> bytes:
        """The manifest file's content; the same manifest gives the same bytes."""
        value = {
            "kind": KIND,
            "format": FORMAT,
            "files": {path: dataclasses.asdict(entry) for path, entry in self.files.items()},
            "target": dataclasses.asdict(self.target),
            "versions": self.versions,
            "cascade": self.cascade.to_json(),
            "networks": self.networks,
            "origin": self.origin,
        }
        return (json.dumps(value, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def library(network: str) -> str:
    """Where a bundle holds a network's compiled library."""
    return f"networks/{network}.so"


def wrong(message: str) -> RunnerError:
    """An error for a bundle that cannot be what the compiler wrote."""
    return RunnerError(
        "bundle", message, "copy the bundle again, or build it again: edgecompress compile"
    )


def manifest_from_bytes(content: bytes) -> Manifest:
    """Read and check a manifest.

    Raises:
        RunnerError: (`bundle`) it is not one, is of another format, or a field is wrong.
    """
    try:
        value = json.loads(
            content.decode(), object_pairs_hook=_once, parse_int=_integer, parse_constant=_refuse
        )
    except (ValueError, RecursionError) as error:
        raise wrong(f"the manifest is not JSON: {error}") from None
    if not isinstance(value, dict) or value.get("kind") != KIND:
        raise wrong("the manifest is not that of an EdgeCompress bundle")
    if value.get("format") != FORMAT:
        raise RunnerError(
            "bundle",
            f"the bundle is of format {value.get('format')!r}, this runner reads {FORMAT}",
            "build the bundle again with this version: edgecompress compile",
        )
    cascade = cascade_from_json(value.get("cascade"))
    manifest = Manifest(
        files=_files(value.get("files")),
        target=_target(value.get("target")),
        versions=_texts(value.get("versions"), "versions"),
        cascade=cascade,
        networks=_networks(value.get("networks")),
        origin=_texts(value.get("origin"), "origin"),
    )
    for name in cascade.networks:
        if library(name) not in manifest.files:
            raise wrong(f"the bundle has no library for its network '{name}'")
    return manifest


def _once(pairs: "list[tuple[str, Any]]") -> dict[str, Any]:
    """An object whose keys are all different: no two readers can see it differently."""
    value = dict(pairs)
    if len(value) != len(pairs):
        raise ValueError("an object has a key twice")
    return value


def _integer(digits: str) -> int:
    # Python before 3.11 takes hours for a number of a million digits.
    if len(digits) > 20:
        raise ValueError("a number is too long")
    return int(digits)


def _refuse(constant: str) -> Any:
    raise ValueError(f"{constant} is not a number")


def safe_path(path: Any) -> bool:
    """Whether a path from a bundle is plain, relative, and stays inside.

    Only letters, digits and `_ . + -` in its parts, none of which begins with a dot.
    """
    return (
        isinstance(path, str)
        and 0 < len(path) <= 240
        and all(_PART.match(part) for part in path.split("/"))
    )


def _files(value: Any) -> dict[str, Entry]:
    if not isinstance(value, dict) or not 0 < len(value) <= MAX_FILES:
        raise wrong("the manifest's 'files' is not a list of files")
    files = {}
    for path, item in value.items():
        if not safe_path(path) or path.lower() in (NAME, SIGNATURE):
            raise wrong(f"the manifest names an unsafe path: {str(path)[:100]!r}")
        sha256, size = (item.get("sha256"), item.get("size")) if isinstance(item, dict) else (0, 0)
        if not isinstance(sha256, str) or not _SHA256.match(sha256):
            raise wrong(f"the manifest has no SHA-256 for {path}")
        if isinstance(size, bool) or not isinstance(size, int) or size < 0:
            raise wrong(f"the manifest has no size for {path}")
        files[path] = Entry(sha256, size)
    total = sum(entry.size for entry in files.values())
    if total > MAX_TOTAL:
        raise wrong(f"the bundle would unpack to {total} bytes, more than {MAX_TOTAL}")
    # As a memory card's file system may see them.
    folded = {path.lower() for path in files}
    if len(folded) != len(files):
        raise wrong("the manifest names two paths that differ in case only")
    folders = {str(folder) for path in folded for folder in PurePosixPath(path).parents}
    if folders & folded:
        raise wrong("the manifest names a path as file and folder")
    return files


def _target(value: Any) -> Target:
    if not isinstance(value, dict):
        raise wrong("the manifest has no 'target'")
    fields: dict[str, Any] = {}
    for field in dataclasses.fields(Target):
        item = value.get(field.name, field.default)
        if field.name in ("mattr", "features"):
            if not isinstance(item, list) or not all(isinstance(one, str) for one in item):
                raise wrong(f"the manifest's 'target.{field.name}' is not a list of texts")
            fields[field.name] = tuple(item)
        elif field.name == "clusters":
            fields[field.name] = _clusters(item)
        elif isinstance(item, str):
            fields[field.name] = item
        else:
            raise wrong(f"the manifest's 'target.{field.name}' is not a text")
    if fields["cluster"] not in CHOICES:
        raise wrong(f"the manifest's 'target.cluster' is none of {', '.join(CHOICES)}")
    return Target(**fields)


def _clusters(value: Any) -> tuple[Cluster, ...]:
    if not isinstance(value, (list, tuple)) or len(value) > MAX_CLUSTERS:
        raise wrong("the manifest's 'target.clusters' is not a short list")
    return tuple(_cluster(item) for item in value)


def _cluster(value: Any) -> Cluster:
    if not isinstance(value, dict):
        raise wrong("the manifest's 'target.clusters' are not objects")
    core, part, cores = (value.get(key) for key in ("core", "part", "cores"))
    if not isinstance(core, str) or not isinstance(part, str) or not _ARM_PART.match(part):
        raise wrong("a cluster in the manifest has no core or no part number")
    if isinstance(cores, bool) or not isinstance(cores, int) or not 1 <= cores <= MAX_CORES:
        raise wrong("a cluster in the manifest has no number of cores")
    return Cluster(core, part, cores)


def _networks(value: Any) -> dict[str, dict[str, Any]]:
    if not isinstance(value, dict) or not all(isinstance(one, dict) for one in value.values()):
        raise wrong("the manifest's 'networks' are not objects")
    return value


def _texts(value: Any, where: str) -> dict[str, str]:
    if not isinstance(value, dict) or not all(isinstance(one, str) for one in value.values()):
        raise wrong(f"the manifest's '{where}' are not texts")
    return value
