"""The report's section on precision: what is int8, what it costs, and by which photos."""

from __future__ import annotations

from typing import Any

from ..runner.spec import Cascade
from .schema import CalibrationPhotos, Precision, PrecisionCascade, PrecisionNetwork
from .sections import Missing

_UNGATED = "float16 has no gate: compare the board's answers with PyTorch's"


def precision_facts(
    precision: str, record: dict[str, Any] | None, cascade: Cascade, missing: Missing
) -> Precision | None:
    """What the job's precision did to each network; None where all is float32.

    Args:
        precision: what the job asked for.
        record: quantization.json's content, of an int8 job.
    """
    if precision == "int8" and record is not None:
        return _int8(record, cascade, missing)
    if precision != "float16":
        return None
    for field in ("allowed_drop", "ranges", "gate", "shared", "cascade"):
        missing[f"precision.{field}"] = _UNGATED
    for field in ("layers", "int8", "expected_drop", "agreement", "top1"):
        missing[f"precision.networks.{field}"] = _UNGATED
    return Precision(
        precision="float16",
        allowed_drop=None,
        ranges=None,
        gate=None,
        shared=None,
        networks=[_ungated(name, "float16") for name in cascade.networks],
        cascade=None,
    )


def _int8(record: dict[str, Any], cascade: Cascade, missing: Missing) -> Precision:
    photos = record["photos"]
    rows = []
    for name in cascade.networks:
        if name in record["float32"]:
            for field in ("layers", "int8", "expected_drop", "agreement"):
                missing[f"precision.networks.{field}"] = f"{name} is {record['float32'][name]}"
            rows.append(_ungated(name, "float32"))
            continue
        one = record["networks"][name]
        rows.append(
            PrecisionNetwork(
                network=name,
                precision="int8",
                top1=_top1(one["top1"]),
                **{key: one[key] for key in ("layers", "int8", "float32")},
                **{key: one[key] for key in ("expected_drop", "agreement")},
            )
        )
    whole = record["cascade"]
    if whole["top1"] is None:
        for part in ("networks", "cascade"):
            missing[f"precision.{part}.top1"] = "the gate's photos are not of the network's classes"
    elif record["float32"]:
        missing["precision.networks.top1"] = "not of a network that stays float32"
    return Precision(
        precision="int8",
        allowed_drop=record["allowed_drop"],
        ranges=CalibrationPhotos(**photos["ranges"]),
        gate=CalibrationPhotos(**photos["gate"]),
        shared=photos["measured"],
        networks=rows,
        cascade=PrecisionCascade(
            top1=_top1(whole["top1"]),
            **{key: whole[key] for key in ("expected_drop", "agreement", "same_stage")},
        ),
    )


def _top1(shares: dict[str, float] | None) -> tuple[float, float] | None:
    return None if shares is None else (shares["float32"], shares["int8"])


def _ungated(name: str, precision: Any) -> PrecisionNetwork:
    return PrecisionNetwork(
        network=name,
        precision=precision,
        layers=None,
        int8=None,
        float32=[],
        expected_drop=None,
        agreement=None,
        top1=None,
    )
