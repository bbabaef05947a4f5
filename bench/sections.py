"""The report's sections. Each puts into `missing` why a field of it is null."""

from __future__ import annotations

import dataclasses
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from edgecompress.errors import plain
from edgecompress.files import sha256_file

from ..runner.manifest import Manifest
from ..runner.spec import Cascade
from .accuracy import Agreement, Answer, hits, mean_macs, top_share, trade_off
from .schema import (
    Accuracy,
    AgreementFacts,
    BundleFacts,
    Failure,
    Layer,
    Macs,
    PredictorFacts,
    Scores,
    StageFacts,
    TradeOff,
    TradeOffPoint,
    Tuning,
)

Missing = dict[str, str]

_NO_ANSWER = "no photo was classified"


def accuracy(
    photos: str,
    answers: Sequence[Answer],
    reference: Sequence[Answer] | None,
    missing: Missing,
    *,
    onnx: Sequence[Answer] | None = None,
    agreed: Agreement | None = None,
) -> Accuracy:
    """The board's scores, and PyTorch's and ONNX Runtime's on the same photos beside them.

    Args:
        agreed: the board's answers against ONNX Runtime's.
    """
    if reference is None:
        missing["accuracy.reference"] = "PyTorch was not run on these photos"
    if onnx is None:
        missing["accuracy.onnx"] = "ONNX Runtime was not run on these photos"
    if agreed is not None and agreed.max_logit_difference is None:
        name = "accuracy.onnx_agreement.max_logit_difference"
        missing[name] = "no photo was answered at the same stage"
    return Accuracy(
        **dict(_scores(answers, "accuracy", missing)),
        photos=photos,
        reference=None if reference is None else _scores(reference, "accuracy.reference", missing),
        onnx=None if onnx is None else _scores(onnx, "accuracy.onnx", missing),
        onnx_agreement=None if agreed is None else AgreementFacts(**dataclasses.asdict(agreed)),
    )


def _scores(answers: Sequence[Answer], path: str, missing: Missing) -> Scores:
    answered = [answer for answer in answers if answer.outcome is not None]
    top1, top5 = top_share(answered, 1), top_share(answered, 5)
    if top1 is None:
        names = ("top1", "top1_interval", "top5", "top5_interval")
        missing.update({f"{path}.{name}": _NO_ANSWER for name in names})
    return Scores(
        top1=top1.value if top1 else None,
        top1_interval=(top1.low, top1.high) if top1 else None,
        top5=top5.value if top5 else None,
        top5_interval=(top5.low, top5.high) if top5 else None,
        n=len(answered),
        failed=len(answers) - len(answered),
    )


def predictor_facts(
    cascade: Cascade, answers: Sequence[Answer], missing: Missing
) -> PredictorFacts | None:
    """The foreground predictor, where the cascade has one."""
    if cascade.predictor is None:
        missing["predictor"] = "the cascade has no foreground predictor: it crops the centre"
        return None
    taken = [answer.outcome.size for answer in answers if answer.outcome is not None]
    sizes = [size for size in taken if size is not None]
    if not sizes:
        missing["predictor.size_shares"] = _NO_ANSWER
    counts = np.bincount(sizes, minlength=len(cascade.predictor.sizes))
    return PredictorFacts(
        network=cascade.predictor.network,
        resolution=cascade.predictor.resolution,
        macs=cascade.predictor.macs,
        params=cascade.predictor.params,
        sizes=list(cascade.predictor.sizes),
        size_shares=(counts / len(sizes)).tolist() if sizes else None,
    )


def stage_facts(cascade: Cascade, answers: Sequence[Answer], missing: Missing) -> list[StageFacts]:
    """Each member, with how many photos it answered and how well."""
    answered = [answer for answer in answers if answer.outcome is not None]
    rows = []
    for stage, own in zip(cascade.stages, hits(answered, len(cascade.stages)), strict=True):
        share = top_share(own, 1)
        if share is None:
            missing["stages.top1"] = "no photo ended at that stage"
        rows.append(
            StageFacts(
                network=stage.network,
                resolution=stage.resolution,
                threshold=stage.threshold,
                macs=stage.macs,
                params=stage.params,
                hits=len(own),
                hit_rate=len(own) / len(answered) if answered else None,
                top1=share.value if share else None,
            )
        )
    if not answered:
        missing["stages.hit_rate"] = _NO_ANSWER
    return rows


def macs(cascade: Cascade, answers: Sequence[Answer], missing: Missing) -> Macs:
    """Computation a photo, against the last member alone."""
    mean, last = mean_macs(cascade, answers), cascade.stages[-1].macs
    if mean is None:
        missing["macs.mean"] = missing["macs.saved"] = _NO_ANSWER
    elif last == 0:
        missing["macs.saved"] = "the cascade's description counts no MACs for its last member"
    saved = None if mean is None or last == 0 else 1 - mean / last
    return Macs(mean=mean, last_member=last, saved=saved)


def bundle_facts(bundle: Path, manifest: Manifest) -> BundleFacts:
    """The archive and its parts."""
    parts = {"runtime": 0, "networks": 0, "runner": 0}
    for path, entry in manifest.files.items():
        parts[path.split("/")[0]] += entry.size
    return BundleFacts(
        file=bundle.name,
        sha256=sha256_file(bundle),
        size_bytes=bundle.stat().st_size,
        **{f"{part}_bytes": size for part, size in parts.items()},
    )


def tuning(manifest: Manifest, database: Path | None, missing: Missing) -> Tuning | None:
    """What the compiler used of the tuning database."""
    infos = list(manifest.networks.values())
    if not infos or any("tuned_layers" not in info for info in infos):
        missing["tuning"] = "the compiler does not say what it used"
        return None
    if database is None:
        missing["tuning.database"] = "compiled without a tuning database"
    return Tuning(
        records_used=sum(info.get("records_used", 0) for info in infos),
        tuned_layers=sum(info["tuned_layers"] for info in infos),
        layers=sum(len(info.get("layers", [])) for info in infos),
        measured=dict(sum((Counter(info.get("tuned_by", {})) for info in infos), Counter())),
        database=None if database is None else database.name,
    )


def layers(manifest: Manifest, operators: dict[str, Any], missing: Missing) -> list[Layer] | None:
    """The compiler's layers, with the operators' times where these were taken.

    Layers and operators meet by the kernel's name, in the order of execution.
    """
    timed: dict[str, list[dict[str, Any]]] = operators["value"] or {}
    rows = [
        row
        for network in manifest.cascade.networks
        for row in network_layers(network, manifest.networks.get(network, {}), timed.get(network))
    ]
    if not rows:
        missing["layers"] = operators["reason"] or "the compiler lists no layers"
        return None
    if operators["value"] is None:
        missing["layers.p50_ms"] = missing["layers.share"] = f"operators: {operators['reason']}"
    for field in Layer.model_fields:
        if f"layers.{field}" not in missing and any(getattr(row, field) is None for row in rows):
            missing[f"layers.{field}"] = "not known for every layer"
    return rows


def network_layers(
    network: str, info: dict[str, Any], operators: list[dict[str, Any]] | None
) -> list[Layer]:
    """One network's layers, as the manifest's `info` and its timed operators tell of them."""
    described = info.get("layers", [])
    waiting: dict[str, list[dict[str, Any]]] = {}
    for operator in operators or []:
        waiting.setdefault(operator["name"], []).append(operator)
    total = sum(operator["p50"] for operator in operators or [])

    def row(about: dict[str, Any], operator: dict[str, Any] | None) -> Layer:
        return Layer(
            network=network,
            name=about["name"],
            op=about.get("op"),
            schedule=about.get("schedule"),
            macs=about.get("macs"),
            tuned=about.get("tuned"),
            p50_ms=operator["p50"] if operator else None,
            share=operator["p50"] / total if operator and total else None,
        )

    rows = []
    for about in described:
        queue = waiting.get(about.get("kernel", about["name"]), [])
        rows.append(row(about, queue.pop(0) if queue else None))
    rest = [operator for queue in waiting.values() for operator in queue]
    return rows + [row({"name": operator["name"]}, operator) for operator in rest]


def trade_off_curve(
    cascade: Cascade,
    answers: Sequence[Answer],
    reference: Sequence[Answer] | None,
    missing: Missing,
) -> TradeOff | None:
    """The threshold curve: of PyTorch's records where these cover all stages, else the board's."""
    from_reference = trade_off(cascade, reference) if reference else []
    points = trade_off(cascade, answers)
    source = "board"
    if len(from_reference) > len(points):
        points, source = from_reference, "reference"
    if len(points) < 2:
        missing["trade_off"] = (
            "the cascade has one stage"
            if len(cascade.stages) < 2
            else "members after the answering one were not run"
        )
        return None
    return TradeOff(
        source=source, points=[TradeOffPoint(**dataclasses.asdict(one)) for one in points]
    )


def failures(answers: Sequence[Answer], reference: Sequence[Answer] | None) -> list[Failure]:
    """A row for each photo without an answer, the board's first."""
    return [*_failed("board", answers), *_failed("reference", reference or [])]


def _failed(where: Literal["board", "reference"], answers: Sequence[Answer]) -> list[Failure]:
    rows = []
    for answer in answers:
        record = answer.record
        if record is None:
            kind, error = "missing", "the run has no record of this photo"
        elif record.outcome is None:
            kind, error = record.error_kind or "unknown", record.error or "no reason given"
        else:
            continue
        # A file's name need not be UTF-8, and a board says what it likes.
        told = {"subject": answer.path.name, "kind": kind, "error": error}
        rows.append(Failure(where=where, **{name: plain(text) for name, text in told.items()}))
    return rows
