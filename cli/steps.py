"""A job's steps, in order. Each does its work once for the same inputs and is kept afterwards."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import asdict, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress import events
from edgecompress.files import building, read_json, sha256_file, sha256_json, write_json

from ..rpc import connect
from ..rpc.lease import new_token
from .job import compress_config, pretrained_config
from .precision import calibration_photos, compiler_precision, require_float16
from .run import Run, alone, code_fingerprint, find_board, leased, usable_board
from .state import COMPARISON
from .tune_boards import endpoints, require_once, require_one_sort

if TYPE_CHECKING:
    from ..bench.history import Entry
    from ..compress.data.photos import PhotoSet


def compress(run: Run) -> None:
    """Write the cascade folder: from packaged weights, or by training on the user's photos."""
    if run.job.pretrained is not None:
        config = pretrained_config(run.job)
        inputs = {"pretrained": config.model_dump(mode="json")}
        if config.cascade is not None:
            from ..compress.cascading.shipped import find_light

            inputs["cascade"] = _folder(find_light(config.cascade))

        def work() -> None:
            from ..compress.plan import pretrained_cascade

            pretrained_cascade(config, run.cascade, run.job.name)
    else:
        from ..compress.data.photos import find_photos
        from ..compress.networks.weights import weights_identity
        from .cost import job_cost

        table = compress_config(run.job)
        settings = table.resolved(run.quick)
        cost, weights = job_cost(run, settings), settings.base.weights
        train = find_photos(run.job.data.train or "", run.data)
        validation = find_photos(run.job.data.photos, run.data)
        inputs = {
            "compress": table.model_dump(mode="json", exclude={"shrink": {"workers"}}),
            "train": _files(train),
            "photos": _files(validation),
            "quick": run.quick,
            **({} if cost is None else {"cost": cost.identity}),
            **({} if weights is None else {"weights": weights_identity(weights)}),
        }

        def work() -> None:
            from ..compress.machine.ddp import Told, lead
            from ..compress.plan import compress_photos

            training = run.space.path("training")
            priced = (
                {} if cost is None else {"cost": Told(cost), "cost_name": f"ms on {cost.where}"}
            )
            folders = training, run.cascade
            lead(compress_photos, table, train, validation, *folders, run.quick, **priced)

    run.space.step("compress", inputs, [run.cascade], work)


def reference(run: Run) -> None:
    """Classify the measured photos with PyTorch on this machine."""

    def work() -> None:
        from ..compress.cascading.evaluate import evaluate

        # Members that an answer did not need run too: the report's trade-off curve needs them.
        evaluate(run.cascade, run.photos, every_stage=True).write(run.reference)

    inputs = {"cascade": _folder(run.cascade), "photos": _files(run.photos)}
    run.space.step("reference", inputs, [run.reference], work)


def quantize(run: Run) -> None:
    """Write the cascade folder in int8, where the job asks for it."""
    table = run.job.quantize
    if table.precision != "int8":
        return
    from ..compile.integer import integer_of
    from ..compress.data.photos import shared

    ranges, gate = calibration_photos(run.job, run.data, run.quick)
    paired = integer_of(run.board).instruction == "pmaddubsw"

    def work() -> None:
        from ..compress.int8.quantize import Settings, quantize_cascade

        settings = Settings(table.calibration, table.gate, table.drop, paired)
        quantize_cascade(
            run.cascade, run.quantized, ranges, gate, settings=settings, measured=run.photos
        )

    inputs = {
        "cascade": _folder(run.cascade),
        "quantize": table.model_dump(),
        "paired": paired,
        "ranges": _files(ranges),
        "gate": _files(gate),
        "shared": shared([ranges, gate], run.photos),
    }
    run.space.step("quantize", inputs, [run.quantized], work)


def tune(run: Run) -> None:
    """Measure kernels on the board, within the job's budget; nothing without one."""
    budget = run.job.tune
    if not (budget.seconds or budget.trials):
        return
    names = run.tuned_on or (run.board_name,)
    require_once(names)
    require_one_sort({name: find_board(name) for name in (run.board_name, *names)})

    def work() -> None:
        from ..compile.tune import tune_networks
        from ..compress.cascading.evaluate import read_cascade

        estimate, opening = None, nullcontext({})
        if budget.cost == "cycles":
            from ..bench.emulated.estimate import cycle_estimate

            estimate = cycle_estimate(run.seen)
        else:
            opening = endpoints(names, run.job.bench.cluster, wait=run.wait)
        with opening as sources:
            result = tune_networks(
                run.networks(),
                run.seen,
                read_cascade(run.deployed).preprocess,
                sources,
                database=run.database,
                trials=budget.trials or None,
                seconds=budget.seconds or None,
                estimate=estimate,
                **compiler_precision(run.job),
            )
        write_json(run.space.path("tuning.json"), result.to_json())

    inputs = {
        "budget": budget.model_dump(),
        "networks": _onnx(run),
        "board": run.seen.tvm_target(),
        "names": names,
        **compiler_precision(run.job),
    }
    run.space.step("tune", inputs, [run.database], work)


def compile_(run: Run) -> None:
    """Compile every network for the board and put the bundle together."""
    compiled = run.space.path("compiled")

    def work() -> None:
        from ..compile.bundle import build_bundle
        from ..compile.network import compile_network
        from ..compress.cascading.evaluate import read_cascade

        preprocess = read_cascade(run.deployed).preprocess
        database = run.database if run.database.exists() else None
        with building(compiled) as folder:
            results = {
                onnx.stem: compile_network(
                    onnx,
                    run.seen,
                    preprocess,
                    folder / f"{onnx.stem}.so",
                    database=database,
                    **compiler_precision(run.job),
                )
                for onnx in events.track(run.networks(), f"compiling for {run.board.name}")
            }
            cluster = run.job.bench.cluster
            build_bundle(run.deployed, results, run.board, run.bundle, cluster)
            write_json(folder / "networks.json", {k: v.info for k, v in results.items()})

    inputs = {
        "cascade": _folder(run.deployed),
        "board": asdict(run.board),
        "cluster": run.job.bench.cluster,
        "code": code_fingerprint("compile", "runner"),
        "database": sha256_file(run.database) if run.database.exists() else None,
        **compiler_precision(run.job),
    }
    run.space.step("compile", inputs, [compiled, run.bundle], work)
    if run.job.deploy.sign:
        from ..compile.signing import sign_bundle

        # A key gives one manifest the same signature each time: the file changes only once.
        sign_bundle(run.bundle, run.job.deploy.sign)


def deploy(run: Run) -> None:
    """Put the bundle on the board and have the board's own runner check it."""
    from ..bench.deploy import deploy as send

    with connect(run.board_name) as session:
        send(session, run.bundle)


def bench(run: Run) -> None:
    """Classify the photos on the boards, by the boards' own runner; measure on the first."""
    from ..runner.run import LATENCY, MEASUREMENTS, PREDICTIONS

    out = run.space.path("board")
    names = run.answered_by or (run.board_name,)
    require_once(names)
    require_one_sort({name: find_board(name) for name in names})

    def work() -> None:
        from ..bench.board_run import run_on_boards

        boards = {name: partial(leased, name, run.wait, new_token()) for name in names}
        run_on_boards(boards, run.bundle, run.photos, out, run.job.bench)

    inputs = {
        "bundle": sha256_file(run.bundle),
        "photos": _files(run.photos),
        "bench": run.job.bench.model_dump(exclude={"peers"}),
        "boards": names,
    }
    left = [out / name for name in (PREDICTIONS, LATENCY, MEASUREMENTS)]
    run.space.step("bench", inputs, left, work)


def peers(run: Run) -> None:
    """Compare the networks with other engines; nothing where the job does not ask for it."""
    if not run.job.bench.peers:
        return
    from .peers import compare_network, installed, write_peers

    threads = run.job.bench.threads or run.seen.fast.cores
    database = run.database if run.database.exists() else None
    compiler = compiler_precision(run.job)
    common = {
        "board": asdict(run.seen),
        "threads": threads,
        "database": sha256_file(database) if database else None,
        "compiler": compiler,
        "here": installed(),
        "code": code_fingerprint("compile", "bench/peers", "bench/emulated"),
    }
    parts = []
    for onnx in run.networks():
        part = run.space.path("peers", f"{onnx.stem}.json")

        def work(onnx: Path = onnx, part: Path = part) -> None:
            with alone(run.board, "bench peers", run.wait):
                write_json(part, compare_network(onnx, run.seen, threads, database, compiler))

        # A step for each network: a job that is killed goes on with the next one.
        inputs = {**common, "network": sha256_file(onnx)}
        run.space.step(f"{onnx.stem} beside other engines", inputs, [part], work)
        parts.append(part)
    write_peers(run.peers, run.seen, parts)


def onnx(run: Run) -> None:
    """Classify the measured photos with ONNX Runtime on this machine, from the compiled files."""

    def work() -> None:
        from ..compress.cascading.evaluate import evaluate

        evaluate(run.deployed, run.photos, engine="ONNX Runtime").write(run.onnx)

    if find_spec("onnxruntime") is not None:
        inputs = {"cascade": _folder(run.deployed), "photos": _files(run.photos)}
        run.space.step("ONNX Runtime", inputs, [run.onnx], work)


def remember(run: Run, entry: Entry) -> None:
    """Add a run to the history; a warning where it cannot be written."""
    from ..bench import history

    trouble = history.remember(run.history or history.default_path(), entry)
    if trouble:
        events.warn(trouble)


def _remember_failure(run: Run, error: Exception) -> None:
    from ..bench.history import failure

    message = getattr(error, "message", None) or f"{type(error).__name__}: {error}"
    precision = run.job.quantize.precision
    remember(run, failure(run.job.name, run.board_name, precision, message))


def report(run: Run) -> None:
    """Write report.json, report.html and report.md from what the other steps left."""
    from ..bench.answers import RecordFile
    from ..bench.board_run import read_board_run
    from ..bench.history import entry_of
    from ..bench.page import page_examples, write_page
    from ..bench.report import Material, build_report, write_report
    from ..bench.report_markdown import write_markdown

    material = Material(
        name=run.job.name,
        board=run.board,
        bundle=run.bundle,
        photos=run.photos,
        run=read_board_run(run.space.path("board")),
        reference=RecordFile(run.reference),
        onnx=RecordFile(run.onnx) if find_spec("onnxruntime") else None,
        compression=_compression(run),
        database=run.database if run.database.exists() else None,
        precision=run.job.quantize.precision,
        quantization=read_quantization(run),
        peers=read_json(run.peers, "comparison") if run.job.bench.peers else None,
    )
    built = build_report(material)
    write_report(built, run.report)
    write_page(built, run.page, page_examples(material))
    write_markdown(built, run.markdown)
    remember(run, entry_of(built, run.board_name))


def _compression(run: Run) -> dict[str, Any]:
    """What compression measured; with its baselines where `bench compression` has been run."""
    from ..bench.compression import read_document

    record = read_json(run.cascade / "compression.json", "compression record")
    compared = run.space.path(COMPARISON)
    return record | ({"comparison": read_document(compared)} if compared.exists() else {})


Step = Callable[[Run], None]
STEPS: dict[str, Step] = {
    "compress": compress,
    "reference": reference,
    "quantize": quantize,
    "tune": tune,
    "compile": compile_,
    "deploy": deploy,
    "bench": bench,
    "peers": peers,
    "onnx": onnx,
    "report": report,
}


# Verbs that end on a board, and so need one that can be reached from here.
_ON_THE_BOARD = ("tune", "deploy", "bench", "peers", "report")


def run_until(run: Run, last: str) -> Run:
    """Do every step up to `last` that is not yet done; returns the job on the board it ran on."""
    if last in _ON_THE_BOARD and not (last == "tune" and run.job.tune.cost == "cycles"):
        usable = usable_board(run.job, run.board_name)
        if usable != run.board_name:
            run = replace(run, board_name=usable, tuned_on=(), answered_by=())
    if run.job.quantize.precision == "float16" and "tune" in _upto(last):
        require_float16(run.board)
    for name in _upto(last):
        # A bench deploys what it needs by itself.
        if name == "deploy" and last != "deploy":
            continue
        try:
            STEPS[name](run)
        except Exception as error:
            if name == "bench":
                _remember_failure(run, error)
            raise
    return run


def _upto(last: str) -> list[str]:
    names = list(STEPS)
    return names[: names.index(last) + 1]


def _files(photos: PhotoSet) -> str:
    """A fingerprint of a photo set that needs no file to be read: names, sizes, times, targets.

    A copy of the photos with other times repeats the steps; trainings have their own fingerprints.
    """
    stamps = [_stamp(path) for path in photos.paths]
    names = [path.name for path in photos.paths]
    return sha256_json([photos.name, names, stamps, photos.targets, photos.labels])


def _stamp(path: Path) -> tuple[int, int] | None:
    """Size, and time of the last change in nanoseconds; None of a file that is not there.

    Uncompressed photos of one size have files of one size: the time tells them apart.
    """
    if not path.exists():
        return None
    seen = path.stat()
    return seen.st_size, seen.st_mtime_ns


def _folder(folder: Path) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in sorted(folder.iterdir()) if path.is_file()}


def _onnx(run: Run) -> dict[str, str]:
    return {path.name: sha256_file(path) for path in run.networks()}


def read_networks(run: Run) -> dict[str, Any]:
    """What the compiler said of each network."""
    return read_json(run.space.path("compiled", "networks.json"), "compiled networks")


def read_quantization(run: Run) -> Any:
    """What the quantize step left; None where the job's networks are not int8."""
    if run.job.quantize.precision != "int8":
        return None
    return read_json(run.quantized / "quantization.json", "quantisation record")


def read_tuning(run: Run) -> Any:
    """What the tune step left, or None."""
    path = run.space.path("tuning.json")
    return read_json(path, "tuning result") if path.exists() else None
