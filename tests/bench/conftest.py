"""A real run of the tiny cascade on the board `host`, and all that a report is made of."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from edgecompress.bench.board_run import BoardRun, run_on_boards
from edgecompress.bench.peers import Row
from edgecompress.bench.report import Material, build_report
from edgecompress.bench.schema import Report
from edgecompress.cli.job import BenchTable, LatencyTable
from edgecompress.compress.data.photos import PhotoSet
from edgecompress.rpc import connect
from edgecompress.runner.cascade import Outcome, classify
from edgecompress.runner.photo import decode
from edgecompress.runner.records import Record, photo_id
from edgecompress.runner.spec import Cascade, cascade_from_json
from edgecompress.targets import load_board

# As long as it takes to run each photo twice.
LATENCY = LatencyTable(runs=16, seconds=0, retries=0, cool_seconds=0)
OPTIONS = BenchTable(threads=1, warmup=1, latency=LATENCY, profile=True)


def tiny_network(name: str, tensor: np.ndarray) -> np.ndarray:
    """What the networks of `TinyCascade` compute, in numpy."""
    side, box = tensor.shape[1], name == "box"
    weights = np.random.default_rng(side).normal(size=(3, 4 if box else 10))
    weights = (weights / (400 if box else 60)).astype(np.float32)
    output = tensor.astype(np.float32).mean(axis=(1, 2)) @ weights
    return 1 / (1 + np.exp(-(output + np.array([-1, -1, 1, 1])))) if box else output


@dataclass(frozen=True)
class Direct:
    """The tiny cascade without a board: `classify` over numpy, every stage."""

    cascade: Cascade
    records: Mapping[str, Record]

    def ask(self, cascade: Cascade, path: Path) -> Outcome:
        """What another cascade of the same networks says of a photo."""
        return classify(cascade, decode(path), tiny_network)


@pytest.fixture(scope="session")
def direct(tiny: Any, photo_files: tuple[Path, ...]) -> Direct:
    """See `Direct`."""
    cascade = cascade_from_json(json.loads((tiny.folder / "cascade.json").read_text()))
    outcomes = (
        (photo_id(path), classify(cascade, decode(path), tiny_network, every_stage=True))
        for path in photo_files
    )
    return Direct(cascade, {key: Record(key, outcome) for key, outcome in outcomes})


@pytest.fixture(scope="session")
def photos(
    direct: Direct, photo_files: tuple[Path, ...], tmp_path_factory: pytest.TempPathFactory
) -> PhotoSet:
    """Eight photos of which the cascade names every other one rightly, and two that are none."""
    folder = tmp_path_factory.mktemp("broken")
    (folder / "corrupt.jpg").write_bytes(photo_files[0].read_bytes()[:300])
    paths = (*photo_files, folder / "corrupt.jpg", folder / "missing.jpg")
    outcomes = [direct.records[photo_id(path)].outcome for path in photo_files]
    named = [outcome.top5[0][0] for outcome in outcomes if outcome]
    targets = [(name + index % 2) % 10 for index, name in enumerate(named)]
    return PhotoSet("little photos", paths, (*targets, 0, 0), direct.cascade.labels)


@pytest.fixture(scope="session")
def board_run(tiny: Any, photos: PhotoSet, tmp_path_factory: pytest.TempPathFactory) -> BoardRun:
    """The photos on the board `host`."""
    root = tmp_path_factory.mktemp("run")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGECOMPRESS_CACHE", str(root / "cache"))
        boards = {"host": partial(connect, "host")}
        return run_on_boards(boards, tiny.bundle, photos, root / "out", OPTIONS)


@pytest.fixture(scope="session")
def material(tiny: Any, direct: Direct, photos: PhotoSet, board_run: BoardRun) -> Material:
    """All of a report, but for a tuning database and what compression measured."""
    return Material(
        name="tiny",
        board=load_board("host"),
        bundle=tiny.bundle,
        photos=photos,
        run=board_run,
        reference=direct.records,
    )


@pytest.fixture(scope="session")
def report(material: Material) -> Report:
    """The report of it."""
    return build_report(material)


_CORES = ("cortex-a76", "cortex-a55")


def _timed(engine: str, title: str, ms: float, share: float) -> Row:
    return Row(engine, title, 2, ms, (share, share - 0.05, share + 0.05), difference=1e-6)


def _counted(engine: str, title: str, cycles: float) -> Row:
    both = {core: factor * cycles for core, factor in zip(_CORES, (1, 2), strict=True)}
    return Row(engine, title, 1, instructions=int(2 * cycles), cycles=both, difference=2e-6)


_ABSENT = Row("mnn", "MNN", 1, reason="not installed; try: pip install '.[peers]'")
_TIMED = (
    _timed("edgecompress", "EdgeCompress", 8.0, 0.8),
    _timed("onnxruntime", "ONNX Runtime", 10.0, 1.0),
    _timed("ncnn", "ncnn", 12.5, 1.25),
    _ABSENT,
)
_COUNTED = (
    _counted("edgecompress", "EdgeCompress", 6e7),
    _counted("onnxruntime", "ONNX Runtime", 1e8),
    _ABSENT,
)
_NOWHERE = (Row("peers", "other engines", 4, reason="not measured on a board over SSH"),)


def _document(measured: str, rows: tuple[Row, ...], macs: int | None = 400_000_000) -> Any:
    """As the step writes it, read back."""
    told = [dataclasses.asdict(row) for row in rows]
    networks = [{"network": name, "macs": macs, "rows": told} for name in ("small", "big_one")]
    value = {"measured": measured, "core": "cortex-a76", "networks": networks}
    return json.loads(json.dumps(value))


_DOCUMENTS = {
    "time": _document("time", _TIMED),
    "cycles": _document("cycles", _COUNTED),
    "nothing": _document("nothing", _NOWHERE, None),
}


@pytest.fixture(scope="session")
def comparisons() -> dict[str, Any]:
    """What peers.json holds, by what was measured: `time`, `cycles` or `nothing`."""
    return _DOCUMENTS


@pytest.fixture(scope="session", params=_DOCUMENTS)
def compared(request: pytest.FixtureRequest, material: Material) -> Report:
    """The report of a job that asked for other engines."""
    return build_report(dataclasses.replace(material, peers=_DOCUMENTS[request.param]))
