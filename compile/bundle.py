"""The bundle: all that a board needs, in one archive.

A plain `.tar` with `manifest.json` first, then `networks/` (compiled libraries), `runner/` (the
runner's sources) and `runtime/` (the few files of TVM's). The same inputs give the same bytes:
names are sorted, times and owners are zero. The format is the runner's: `runner/manifest.py` reads
what is written here, and `docs/runner.md` describes it.
"""

from __future__ import annotations

import hashlib
import io
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from edgecompress import __version__, events
from edgecompress.errors import CompileError
from edgecompress.files import read_json, sha256_file, writing

from ..runner.cpus import Cluster
from ..runner.errors import RunnerError
from ..runner.manifest import NAME, Entry, Manifest, Target, library, safe_path
from ..runner.spec import Cascade, cascade_from_json
from ..targets import Board, ClusterName
from ..targets.runtime import runtime_files, versions

RUNNER = Path(__file__).parent.parent / "runner"

# Of the compiler's account of a network, what differs from run to run.
_NOT_REPRODUCIBLE = frozenset({"seconds"})


class Compiled(Protocol):
    """A compiled network, as `compile_network` returns it."""

    @property
    def library(self) -> Path:
        """The shared library."""
        ...

    @property
    def info(self) -> dict[str, Any]:
        """What the compiler says of it: layers, schedules, tuning."""
        ...


@dataclass(frozen=True)
class BundleInfo:
    """A bundle that has been written.

    Attributes:
        path: the archive.
        sha256: of the archive.
        size_bytes: of the archive.
        parts: bytes by part: `networks`, `runner`, `runtime`, `manifest`.
    """

    path: Path
    sha256: str
    size_bytes: int
    parts: dict[str, int]

    @property
    def runtime_bytes(self) -> int:
        """What the TVM runtime takes of it."""
        return self.parts["runtime"]


def build_bundle(
    cascade_folder: Path,
    compiled: Mapping[str, Compiled],
    board: Board,
    out: Path,
    cluster: ClusterName = "fast",
) -> BundleInfo:
    """Write a bundle.

    Args:
        cascade_folder: with `cascade.json`.
        compiled: of each network of the cascade, by name, its library for `board`.
        board: what the libraries were compiled for.
        out: the archive to write.
        cluster: which of the board's cores they were compiled for, by `board.on(cluster)`.

    Raises:
        InputError: the cascade's description cannot be read, or a wheel cannot be fetched.
        CompileError: a network is missing, or the description is damaged.
        BoardError: there is no runtime for the board.
    """
    cascade = _read_cascade(cascade_folder)
    missing = [name for name in cascade.networks if name not in compiled]
    if missing:
        raise CompileError(
            f"network '{missing[0]}' of the cascade is not compiled", "edgecompress compile"
        )
    with events.task(f"bundle for {board.name}"):
        files: dict[str, bytes] = {
            **{library(name): _read_library(compiled[name]) for name in cascade.networks},
            **{f"runner/{path}": content for path, content in runner_sources().items()},
            **{f"runtime/{path}": content for path, content in runtime_files(board).items()},
        }
        target = _target(board, cluster)
        manifest = _manifest(cascade, compiled, target, files).to_bytes()
        with writing(out) as temporary:
            _write_tar(temporary, {NAME: manifest, **dict(sorted(files.items()))})
    parts = {"manifest": len(manifest), "networks": 0, "runner": 0, "runtime": 0}
    for path, content in files.items():
        parts[path.split("/")[0]] += len(content)
    sizes = ", ".join(f"{part} {size / 1e6:.2f} MB" for part, size in parts.items())
    events.note(f"bundle {out.name}: {sizes}")
    return BundleInfo(out, sha256_file(out), out.stat().st_size, parts)


def runner_sources() -> dict[str, bytes]:
    """The runner's own files, by name."""
    return {path.name: path.read_bytes() for path in sorted(RUNNER.glob("*.py"))}


def _read_cascade(folder: Path) -> Cascade:
    try:
        return cascade_from_json(read_json(folder / "cascade.json", "cascade"))
    except RunnerError as error:
        raise CompileError(f"{folder}: {error.message}", error.hint) from error


def _read_library(compiled: Compiled) -> bytes:
    try:
        return compiled.library.read_bytes()
    except OSError as error:
        raise CompileError(
            f"cannot read {compiled.library}: {error.strerror}", "edgecompress compile"
        ) from error


def _manifest(
    cascade: Cascade, compiled: Mapping[str, Compiled], target: Target, files: Mapping[str, bytes]
) -> Manifest:
    unsafe = [path for path in files if not safe_path(path)]
    assert not unsafe, unsafe  # network names are checked by the cascade, the rest is ours
    return Manifest(
        files={
            path: Entry(hashlib.sha256(content).hexdigest(), len(content))
            for path, content in files.items()
        },
        target=target,
        versions={"edgecompress": __version__, **versions()},
        cascade=cascade,
        networks={
            name: {k: v for k, v in compiled[name].info.items() if k not in _NOT_REPRODUCIBLE}
            for name in cascade.networks
        },
        origin={
            **cascade.origin,
            "macs": "counted in the networks' layers at their own resolution",
            "layers": f"edgecompress compile for {target.board}",
            "thresholds": cascade.origin.get("thresholds", "cascade.json"),
        },
    )


def clusters(board: Board) -> tuple[Cluster, ...]:
    """A board's cores by sort, fastest first, as a manifest describes them."""
    fastest_first = sorted(board.clusters, key=lambda one: -one.peak_gflops)
    return tuple(Cluster(one.core, one.part, one.cores) for one in fastest_first)


def _target(board: Board, cluster: ClusterName) -> Target:
    seen = board.on(cluster)
    return Target(
        board=board.name,
        title=board.title,
        arch=board.arch,
        triple=board.triple,
        mcpu=seen.mcpu,
        mattr=board.mattr,
        features=board.features,
        glibc=board.glibc,
        python=board.python,
        clusters=clusters(board),
        cluster=cluster,
    )


def _write_tar(path: Path, files: Mapping[str, bytes]) -> None:
    # USTAR has no extra headers, in which other fields could differ.
    with tarfile.open(path, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            member.mode = 0o644
            archive.addfile(member, io.BytesIO(content))
