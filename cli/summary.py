"""What each verb prints at its end, and its `--json` document."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.files import read_json, sha256_file

from . import show
from .run import Run
from .steps import read_networks, read_quantization, read_tuning

if TYPE_CHECKING:
    from ..bench.schema import Peers, Precision, Report, Scores

Tell = Callable[[Run, bool], Any]


def compress(run: Run, as_json: bool) -> Any:
    """The members, and what the cascade does on the measured photos in PyTorch."""
    from ..compress.cascading.evaluate import read_cascade, read_predictions

    cascade = read_cascade(run.cascade)
    predictions = read_predictions(run.reference, cascade, run.photos)
    document = {
        "cascade": str(run.cascade),
        "stages": cascade.to_json()["stages"],
        "predictor": cascade.to_json()["predictor"],
        "reference": {
            "photos": run.photos.name,
            "n": predictions.n,
            "top1": _known(predictions.top1),
            "hit_rates": [_known(rate) for rate in predictions.hit_rates],
            "mean_macs": _known(predictions.mean_macs),
        },
    }
    if not as_json:
        rows = [
            [
                stage.network,
                f"{stage.resolution}",
                f"{stage.macs / 1e6:.1f}",
                f"{stage.params / 1e6:.2f}",
                "always" if stage.threshold is None else f"{stage.threshold:.3f}",
                _share(_known(rate)),
            ]
            for stage, rate in zip(cascade.stages, predictions.hit_rates, strict=True)
        ]
        title = f"{cascade.name} in PyTorch on {run.photos.name}"
        columns = ["member", ">pixels", ">M MACs", ">M parameters", ">answers from", ">photos"]
        show.table(title, columns, rows)
        if cascade.predictor:
            share = f"{cascade.predictor.macs / 1e6:.1f} M MACs"
            show.say(f"foreground predictor: {cascade.predictor.resolution} px, {share}")
        measured = (
            f"top-1 {predictions.top1:.1%} of {predictions.n} photos, "
            f"{predictions.mean_macs / 1e6:.1f} M MACs on average"
        )
        none = f"none of {predictions.failed} photos could be read"
        show.say(f"{measured if predictions.n else none}; cascade in {run.cascade}")
    return document


def _known(value: float) -> float | None:
    """None for NaN, which is of no photos and no JSON."""
    return None if math.isnan(value) else value


def quantize(run: Run, as_json: bool) -> Any:
    """What int8 costs each network, and which of its layers stay float32."""
    if run.job.quantize.precision != "int8":
        if not as_json:
            show.say(f"precision {run.job.quantize.precision}: give --precision int8 to quantise")
        return {"cascade": str(run.cascade), "result": None}
    record = read_quantization(run)
    if not as_json:
        rows = [
            [
                name,
                f"{one['int8']} of {one['layers']}",
                f"{one['expected_drop']:.2%}",
                f"{one['agreement']:.1%}",
                ", ".join(one["float32"]),
            ]
            for name, one in record["networks"].items()
        ]
        whole = record["cascade"]
        rows.append(
            ["the cascade", "", f"{whole['expected_drop']:.2%}", f"{whole['agreement']:.1%}", ""]
        )
        rows += [[name, "0", "-", "-", f"all: {why}"] for name, why in record["float32"].items()]
        columns = ["network", ">layers int8", ">expected drop", ">same answer", "float32"]
        title = f"int8 against float32 (allowed drop {record['allowed_drop']:.2%})"
        show.table(title, columns, rows)
        for use in ("ranges", "gate"):
            show.say(f"{use}: {_calibrated(record['photos'][use])}")
        if record["photos"]["measured"]:
            show.say(f"{record['photos']['measured']} of these photos are also reported on")
        show.say(f"cascade in {run.quantized}")
    return {"cascade": str(run.quantized), "result": record}


def _calibrated(photos: dict[str, Any]) -> str:
    views = "" if photos["views"] == photos["photos"] else f" in {photos['views']} views"
    return f"{photos['photos']} photos of {photos['name']}{views}"


def tune(run: Run, as_json: bool) -> Any:
    """What tuning found, kernel by kernel."""
    result = read_tuning(run)
    if not as_json and result is None:
        show.say("no budget to tune with: give --budget 10m, --trials N, or a [tune] table")
    elif not as_json:
        show_tuning(result, run.database)
    return {"database": str(run.database), "result": result}


def show_tuning(result: Any, database: Path) -> None:
    """A tuning, kernel by kernel; `result` as `TuningResult.to_json` gives it."""
    rows = [
        [task["name"], str(task["weight"]), _ms(task["before_ms"]), _ms(task["after_ms"])]
        for task in result["tasks"]
        if task["measured"]
    ]
    kinds = {
        "emulated": " (emulated: times prove the path, not the speed)",
        "cost": " (estimated cycles at the board's clock, not time)",
    }
    title = f"Kernels on {result['board']}" + kinds.get(result["measured"], "")
    show.table(title, ["kernel", ">times", ">untuned ms", ">best ms"], rows)
    show.say(
        f"{result['records']} records in {database} after {result['seconds']:.0f} s"
        f"{_shares(result['boards'])}; "
        "the next compile uses them"
    )


def _shares(boards: dict[str, int]) -> str:
    """How many candidates each of several boards measured; nothing for one."""
    each = (f"{name} {count}" for name, count in boards.items())
    return f" ({', '.join(each)})" if len(boards) > 1 else ""


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def compile_(run: Run, as_json: bool) -> Any:
    """The compiled networks and the bundle."""
    networks = read_networks(run)
    document = {
        "board": run.board.name,
        "bundle": str(run.bundle),
        "size_bytes": run.bundle.stat().st_size,
        "sha256": sha256_file(run.bundle),
        "networks": networks,
    }
    if not as_json:
        rows = [
            [
                name,
                f"{info['macs'] / 1e6:.1f}",
                str(len(info["layers"])),
                str(info["tuned_layers"]),
                f"{info['seconds']:.1f}",
            ]
            for name, info in networks.items()
        ]
        columns = ["network", ">M MACs", ">kernels called", ">tuned", ">seconds to compile"]
        show.table(f"Compiled for {run.board.title}", columns, rows)
        show.say(f"bundle {run.bundle}: {document['size_bytes'] / 1e6:.1f} MB")
    return document


def deploy(run: Run, as_json: bool) -> Any:
    """Where the bundle is."""
    if not as_json:
        show.say(f"{run.bundle} is on '{run.board_name}', checked there")
    return {"board": run.board_name, "bundle": str(run.bundle)}


def bench(run: Run, as_json: bool) -> Any:
    """What the board measured."""
    measurements = read_json(run.space.path("board", "measurements.json"), "measurements")
    if not as_json:
        show.say(f"measured on '{run.board_name}'; edgecompress report shows it")
    if not run.job.bench.peers:
        return measurements
    from ..bench.schema import Peers

    peers = Peers(**read_json(run.peers, "comparison"))
    if not as_json:
        _show_peers(peers)
    return {**measurements, "peers": peers.model_dump(mode="json")}


def _show_peers(peers: Peers) -> None:
    """Each engine against ONNX Runtime, or why it has no numbers."""
    from ..bench.peer_facts import bars

    shares = {(bar.network, bar.title): f"{bar.share:.2f}" for bar in bars(peers)}
    rows = [
        [network.network, row.title, shares.get((network.network, row.title), "-"), row.reason]
        for network in peers.networks
        for row in network.rows
    ]
    what = "Time" if peers.measured == "time" else "Estimated cycles"
    title = f"{what} against ONNX Runtime's"
    show.table(title, ["network", "engine", ">ratio", "note"], rows)


def report(run: Run, as_json: bool) -> Any:
    """The report's summary and where it lies."""
    from ..bench.report import read_report

    told = read_report(run.report)
    if not as_json:
        from ..bench.glance import glances

        columns = ["what", ">measured", "beside it"]
        show.table(f"{told.name} on {told.board.title}", columns, _headlines(told))
        show.table("Time by part" + _EMULATED * told.emulated, _PARTS, _times(told))
        if told.peers:
            _show_peers(told.peers)
        for one in glances(told):
            show.say(f"{one.question} {one.answer}")
            for detail in one.details if one.mark == "doubtful" else ():
                show.say(f"  {detail}")
        show.say(f"report: {run.report}\n        {run.page}\n        {run.markdown}")
    files = {"report": run.report, "page": run.page, "markdown": run.markdown}
    return {**{name: str(path) for name, path in files.items()}, **told.model_dump(mode="json")}


_EMULATED = " (emulated CPU: not comparable with any other)"
_PARTS = ["part", ">p50 ms", ">p90 ms", ">p99 ms", ">n", ">answered", ">top-1 of these"]


def _headlines(told: Report) -> list[list[str]]:
    accuracy, reference = told.accuracy, told.accuracy.reference
    float32 = " float32" if told.precision else ""
    beside = f"PyTorch{float32} {_interval(reference)}" if reference else ""
    rows = [
        ["top-1", _interval(accuracy), beside],
        ["photos", str(accuracy.n), f"{accuracy.failed} could not be read"],
    ]
    if told.agreement:
        worst = told.agreement.max_logit_difference
        beside = "" if worst is None else f"largest logit difference {worst:.2g}"
        rows.append([f"same top-1 as PyTorch{float32}", f"{told.agreement.top1:.1%}", beside])
    if told.accuracy.onnx:
        agreed = told.accuracy.onnx_agreement
        beside = f"{agreed.top1:.1%} the same as on the board" if agreed else ""
        rows.append(["top-1 of ONNX Runtime", _interval(told.accuracy.onnx), beside])
    if total := told.latency_ms.get("total"):
        from ..bench.glance import verdict

        spread = "" if total.p10 is None else f" [{total.p10:.1f}, {total.p90:.1f}]"
        rows.append(["p50 ms [p10, p90]", f"{total.p50:.1f}{spread}", verdict(told)])
    if told.precision:
        rows.append(["precision", told.precision.precision, _gated(told.precision)])
    if told.macs.mean is not None and told.macs.saved is not None:
        beside = f"{told.macs.saved:.1%} less than the last member alone"
        rows.append(["M MACs a photo", f"{told.macs.mean / 1e6:.1f}", beside])
    if told.tuning:
        beside = f"of {told.tuning.layers}, from {told.tuning.records_used} records"
        beside += ", by estimated cycles" if told.tuning.measured.get("cost") else ""
        rows.append(["tuned layers", str(told.tuning.tuned_layers), beside])
    rows.append(["peak memory", f"{told.memory.peak_rss_mib:.0f} MiB", "of the runner"])
    size, runtime = told.bundle.size_bytes, told.bundle.runtime_bytes
    rows.append(["bundle", f"{size / 1e6:.1f} MB", f"{runtime / 1e6:.1f} MB of it runtime"])
    return rows


def _gated(precision: Precision) -> str:
    """How many layers are int8, and the largest expected drop."""
    gated = [one for one in precision.networks if one.expected_drop is not None]
    if not gated:
        return "no gate"
    int8, layers = (sum(getattr(one, key) or 0 for one in gated) for key in ("int8", "layers"))
    worst = max(one.expected_drop or 0.0 for one in gated)
    return f"{int8} of {layers} layers, expected drop of top-1 {worst:.2%} at most"


def _interval(scores: Scores) -> str:
    if scores.top1 is None or scores.top1_interval is None:
        return "not measured"
    low, high = scores.top1_interval
    return f"{scores.top1:.1%} [{low:.1%}, {high:.1%}]"


def _times(told: Report) -> list[list[str]]:
    stages = {stage.network: stage for stage in told.stages}
    rows = []
    # The parts in the order in which they were first seen, the whole behind them.
    for part, latency in sorted(told.latency_ms.items(), key=lambda item: item[0] == "total"):
        times = [f"{value:.2f}" for value in (latency.p50, latency.p90, latency.p99)]
        stage = stages.get(part)
        rate = _share(stage.hit_rate) if stage else ""
        rows.append([part, *times, str(latency.n), rate, _share(stage.top1) if stage else ""])
    return rows


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
