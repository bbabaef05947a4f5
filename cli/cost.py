"""What a network costs on the job's board, for compression: milliseconds, measured there.

Candidates have random weights (time does not depend on them) and untuned kernels: tuning each would
take hours. What was measured undisturbed is kept in the cache for good: an equal network is not
measured twice.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress import __version__, events
from edgecompress.errors import BoardError, UsageError
from edgecompress.files import cache_dir, read_json, sha256_json, write_json

from ..targets import Board
from .job import BenchTable
from .precision import compiler_precision
from .run import Run, code_fingerprint, leased

if TYPE_CHECKING:
    from ..compress.config import CompressConfig
    from ..compress.networks.network import NetworkSpec
    from ..rpc import Session

NETWORK = "network"
_MOST_MS = 3.6e6
"""An hour: no network takes as long for a photo."""
_LATENCY = {"photos": 1, "runs": 30, "seconds": 1.0, "most_seconds": 30.0, "retries": 1}


@dataclass(frozen=True)
class Measured:
    """Milliseconds of one photo.

    Attributes:
        doubt: what disturbed the board meanwhile; empty where nothing did.
    """

    ms: float
    doubt: str = ""


Measure = Callable[["NetworkSpec", Path], Measured]
"""A network, and a folder for files, to its time."""


@dataclass(frozen=True)
class KeptCost:
    """A cost that is measured once for each network, whatever multipliers lead to it.

    Attributes:
        where: names board and conditions for people.
        identity: JSON-able; whatever else decides the result.
        measure: does it.
        doubtful: milliseconds of networks whose measuring was disturbed, by their keys: good for
            this run, which is to reckon with one number, and not for the cache.
    """

    where: str
    identity: Any
    measure: Measure
    doubtful: dict[str, float] = field(default_factory=dict, compare=False)

    def __call__(self, spec: NetworkSpec) -> float:
        """Milliseconds of one photo, of the network alone."""
        key = sha256_json([self.identity, spec.family, spec.resolution, shapes(spec)])
        path = cache_dir("costs") / f"{key}.json"
        if path.exists():
            return float(read_json(path, "measured cost")["ms"])
        if key in self.doubtful:
            return self.doubtful[key]
        what = f"what {spec.macs / 1e6:.4g} M MACs take on {self.where}"
        with (
            events.task(what) as shown,
            tempfile.TemporaryDirectory(prefix="edgecompress-cost-") as folder,
        ):
            measured = self.measure(spec, Path(folder))
            shown.say(f"{measured.ms:.4g} ms")
        if measured.doubt:
            events.warn(f"{what}: {measured.doubt}; {measured.ms:.4g} ms holds for this run only")
            self.doubtful[key] = measured.ms
        else:
            write_json(path, {"ms": measured.ms, "where": self.where, "spec": spec.to_json()})
        return measured.ms


def job_cost(run: Run, settings: CompressConfig) -> KeptCost | None:
    """What a job's networks are priced by; None where it is their MACs.

    Raises:
        UsageError: it is milliseconds, and the job's board has none that mean anything.
        BoardError: cycles are to be estimated, and this machine cannot.
    """
    from ..compress.budget import Budget

    timed = [budget for budget in settings.members.allowed if budget.kind == "ms"]
    cascade = settings.cascade
    if cascade.ms is not None and not cascade.costs_ms:
        timed.append(Budget(cascade.ms, "ms"))
    wanted = settings.shrink.cost
    if wanted == "cycles":
        return _by_cycles(run.board)
    if wanted == "macs" and not timed:
        return None
    if run.board.kind == "virtual":
        asked = f"a budget of {timed[0]}" if timed else '[compress.shrink] cost = "ms"'
        raise UsageError(
            f"{asked} needs a real board: on {run.board_name}, which is emulated, times mean"
            " nothing",
            'give --board, a budget in MACs, or [compress.shrink] cost = "cycles"',
        )
    return _by_time(run)


def _by_time(run: Run) -> KeptCost:
    from ..rpc.lease import new_token

    bench = run.job.bench
    latency = bench.latency.model_copy(update=_LATENCY)
    options = bench.model_copy(update={"latency": latency, "profile": False, "peers": False})
    compiler = compiler_precision(run.job)
    opened = partial(leased, run.board_name, run.wait, new_token())
    measure = partial(
        _time, name=run.board_name, board=run.board, opened=opened, options=options,
        compiler=compiler,
    )  # fmt: skip
    identity = [
        __version__, asdict(run.board), run.board_name, bench.cluster, bench.threads, compiler,
        code_fingerprint("compile", "runner"),
    ]  # fmt: skip
    return KeptCost(run.board_name, identity, measure)


def _time(
    spec: NetworkSpec,
    folder: Path,
    *,
    name: str,
    board: Board,
    opened: Callable[[], AbstractContextManager[Session]],
    options: BenchTable,
    compiler: Mapping[str, Any],
) -> Measured:
    """p50 of the network, measured by the board's own runner as a cascade of one member."""
    from ..bench.board_run import run_on_boards
    from ..bench.deploy import BUNDLES, manifest_sha256
    from ..compile.bundle import build_bundle
    from ..compile.network import compile_network
    from ..compress.training.material import IMAGENET_PIXELS
    from ..runner.spec import Cascade, Stage

    onnx = write_random(spec, folder)
    cascade = Cascade(
        name="cost",
        labels=tuple(str(number) for number in range(spec.classes)),
        preprocess=IMAGENET_PIXELS,
        predictor=None,
        stages=(Stage(NETWORK, spec.resolution, 1.0, None, 1.0, spec.macs, spec.params),),
        criterion="margin",
        accumulate=False,
        alpha=1.0,
        origin={"weights": "random"},
    )
    write_json(folder / "cascade.json", cascade.to_json())
    seen = board.on(options.cluster)
    library = folder / f"{NETWORK}.so"
    compiled = compile_network(onnx, seen, IMAGENET_PIXELS, library, **compiler)
    bundle = folder / "bundle.tar"
    build_bundle(folder, {NETWORK: compiled}, board, bundle, options.cluster)
    measured = run_on_boards({name: opened}, bundle, _noise(folder), folder / "board", options)
    with opened() as session:
        session.remove(f"{BUNDLES}/{manifest_sha256(bundle)}")
    return told(name, measured.measurements)


def told(name: str, measurements: Mapping[str, Any]) -> Measured:
    """What a board's measurements say of the network.

    Raises:
        BoardError: it was not timed, or what is told makes no sense; or the pass that counts was
            throttled: no network would be told from another by its time.
    """
    from ..bench.board_feed import within
    from ..bench.board_run import senseless
    from ..runner.protocol import DISTURBED

    try:
        times = measurements["latency_ms"].get(NETWORK)
        if not times or not times["n"]:
            raise BoardError(
                f"'{name}' did not time the network", f"edgecompress doctor --board {name}"
            )
        p50 = times["p50"]
        doubts = {str(one["kind"]): str(one["text"]) for one in measurements["latency"]["doubts"]}
    except (LookupError, TypeError, AttributeError) as error:
        raise senseless(name, f"its times are damaged: {error!r}") from error
    if not (within(p50, _MOST_MS) and p50 > 0):
        raise senseless(name, f"a photo takes {p50!r:.40} ms")
    if "throttled" in doubts:
        raise BoardError(
            f"'{name}' has no time for a network: {doubts['throttled']}",
            "cool it or give it a stronger power supply, then give the same command again: what"
            " was measured is kept",
        )
    disturbed = [text for kind, text in doubts.items() if kind in DISTURBED]
    return Measured(float(p50), "; ".join(disturbed))


def _noise(folder: Path) -> Any:
    """One photo of noise: a network takes as long for it as for any."""
    import numpy as np
    from PIL import Image

    from ..compress.data.photos import PhotoSet

    pixels = np.random.default_rng(0).integers(0, 256, (256, 256, 3), dtype=np.uint8)
    path = folder / "noise.png"
    Image.fromarray(pixels).save(path)
    return PhotoSet("noise", (path,), (0,), ("0", "1"))


def _by_cycles(board: Board) -> KeptCost:
    """Estimated cycles of one core at the clock of the board's fastest, in milliseconds."""
    from ..bench.emulated import shown_cores, why_not

    if board.emulation is None or board.fast.core not in shown_cores(board.fast.core):
        raise UsageError(
            f"cycles cannot be estimated for {board.name}",
            'virtual boards have cycles; [compress.shrink] cost = "ms" measures a real board',
        )
    if reason := why_not():
        raise BoardError(f"cycles cannot be estimated: {reason}", "make counting")
    identity = [__version__, "cycles", asdict(board), code_fingerprint("compile", "runner")]
    return KeptCost(f"{board.name}, estimated", identity, partial(_estimate, board=board))


def _estimate(spec: NetworkSpec, folder: Path, *, board: Board) -> Measured:
    from ..bench.emulated import cost
    from ..bench.peers.compare import prepare, run_counted
    from ..bench.peers.engines import OURS

    prepare(write_random(spec, folder), board, folder, None)
    sections, _ = run_counted(OURS, folder, "count", board)
    return Measured(cost(sections[1], board.fast.core).cycles / (1e3 * board.fast.mhz))


def shapes(spec: NetworkSpec) -> list[list[Any]]:
    """Names and shapes of a network's weights, which tell networks of one family apart."""
    import torch

    with torch.device("meta"):
        network = spec.build()
    return [[name, list(weight.shape)] for name, weight in network.state_dict().items()]


def write_random(spec: NetworkSpec, folder: Path) -> Path:
    """Write a network with random weights as ONNX, unchecked; returns the file."""
    import torch

    from ..compress.networks.export import write_onnx

    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        network = spec.build()
    for part in network.modules():
        # Fresh residual branches end in zeros, which some kernels could skip.
        if isinstance(part, torch.nn.BatchNorm2d):
            torch.nn.init.uniform_(part.weight, 0.5, 1.0)
    path = folder / f"{NETWORK}.onnx"
    write_onnx(network.eval(), torch.zeros(1, 3, spec.resolution, spec.resolution), path)
    return path
