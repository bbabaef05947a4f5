"""report.json: what a job measured, put together from what its steps left."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from edgecompress.errors import InputError
from edgecompress.files import read_json, write_text

from ..runner.manifest import Manifest
from ..runner.records import Record
from ..targets import Board
from . import sections
from .accuracy import Labelled, agreement, match
from .board_run import BoardRun
from .deploy import read_manifest
from .measured_parts import UNSOUND, cause, measured_parts
from .peer_facts import peers_facts
from .photo_facts import photo_facts
from .precision import precision_facts
from .schema import AgreementFacts, Report


@dataclass(frozen=True)
class Material:
    """Everything that a report is made of.

    Attributes:
        name: the job's name.
        board: the board's description.
        bundle: the archive that ran.
        photos: what was classified.
        run: what came back from the board.
        reference: PyTorch's records of the same photos; None where it was not run.
        onnx: the same of ONNX Runtime on this machine; None where it was not run.
        compression: compression.json's content, or None.
        database: the tuning database that the compiler was given, or None.
        precision: what the networks were to compute with.
        quantization: quantization.json's content; None where nothing is int8.
        peers: peers.json's content; None where no engines were compared.
    """

    name: str
    board: Board
    bundle: Path
    photos: Labelled
    run: BoardRun
    reference: Mapping[str, Record] | None = None
    onnx: Mapping[str, Record] | None = None
    compression: dict[str, Any] | None = None
    database: Path | None = None
    precision: str = "float32"
    quantization: dict[str, Any] | None = None
    peers: dict[str, Any] | None = None


def build_report(material: Material) -> Report:
    """Put a report together.

    Raises:
        InputError: the bundle or the measurements are damaged.
    """
    manifest = read_manifest(material.bundle)
    try:
        return _report(material, manifest)
    except UNSOUND as error:
        raise InputError(
            f"the measurements do not make a report: {cause(error)}",
            "run again: edgecompress bench",
        ) from error


def _report(material: Material, manifest: Manifest) -> Report:
    measured = material.run.measurements
    answers = match(material.photos, material.run.records)
    reference = None if material.reference is None else match(material.photos, material.reference)
    missing: dict[str, str] = {}
    agreed = None
    if material.reference is not None:
        agreed = agreement(material.run.records, material.reference)
    if agreed is None:
        missing["agreement"] = "board and PyTorch have no answered photo in common"
    elif agreed.max_logit_difference is None:
        missing["agreement.max_logit_difference"] = "no photo was answered at the same stage"
    if material.compression is None:
        missing["compression"] = "the cascade folder has no compression.json"
    curve = sections.trade_off_curve(manifest.cascade, answers, reference, missing)
    told = measured_parts(material.board, measured, material.run.runs, missing)
    return Report(
        name=material.name,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
        emulated=material.board.kind == "virtual",
        board=told.board,
        versions={**manifest.versions, **told.software},
        accuracy=sections.accuracy(
            material.photos.name,
            answers,
            reference,
            missing,
            onnx=None if material.onnx is None else match(material.photos, material.onnx),
            agreed=None
            if material.onnx is None
            else agreement(material.run.records, material.onnx),
        ),
        latency_ms=told.latency_ms,
        measurement=told.measurement,
        run=told.run,
        predictor=sections.predictor_facts(manifest.cascade, answers, missing),
        stages=sections.stage_facts(manifest.cascade, answers, missing),
        agreement=None if agreed is None else AgreementFacts(**asdict(agreed)),
        macs=sections.macs(manifest.cascade, answers, missing),
        memory=told.memory,
        bundle=sections.bundle_facts(material.bundle, manifest),
        tuning=sections.tuning(manifest, material.database, missing),
        layers=sections.layers(manifest, measured["operators"], missing),
        trade_off=curve,
        compression=material.compression,
        origin={**manifest.cascade.origin, **manifest.origin},
        failures=sections.failures(answers, reference),
        precision=precision_facts(
            material.precision, material.quantization, manifest.cascade, missing
        ),
        peers=peers_facts(material.peers, missing),
        photos=photo_facts(
            answers, reference, curve, len(manifest.cascade.stages), runs=material.run.runs
        ),
        not_measured=missing,
    )


def write_report(report: Report, path: Path) -> None:
    """Write report.json, with each photo on a line of its own."""
    document = report.model_dump(mode="json", exclude={"photos"})
    text = json.dumps(document, indent=2, ensure_ascii=False, allow_nan=False)
    if report.photos is not None:
        rows = ",\n".join(f"    {photo.model_dump_json()}" for photo in report.photos)
        text = text.removesuffix("\n}") + f',\n  "photos": [\n{rows}\n  ]\n}}'
    write_text(path, text + "\n")


def read_report(path: Path) -> Report:
    """Read report.json back.

    Raises:
        InputError: it is missing, damaged or of another schema version.
    """
    value = read_json(path, "report")
    try:
        return Report.model_validate_json(json.dumps(value))
    except ValidationError as error:
        raise InputError(f"{path}: {cause(error)}", "make it again: edgecompress report") from error
