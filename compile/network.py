"""One network: from its ONNX file to a shared library for a board."""

from __future__ import annotations

import time
from collections import Counter
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edgecompress.files import writing

from ..runner.spec import Preprocess
from ..targets import Board, require_supported
from .database import Database, open_database
from .integer import as_words
from .link import linker
from .machine import Precision
from .pipeline import calls, finish, prepare

if TYPE_CHECKING:
    from tvm import IRModule


@dataclass(frozen=True)
class CompiledNetwork:
    """A network as a shared library.

    Attributes:
        library: its function `main` takes uint8 `[1, r, r, 3]` and gives float32 `[1, k]`.
        info: what the compiler says of it, JSON-able: `macs`, `tuned_layers`, `records_used`,
            `tuned_by` (tuned layers by the kind of record), `seconds` and `layers`, each of those
            with `name`, `op`, `kernel` (as the virtual machine reports it), `schedule`, `choices`,
            `estimate` (cycles, as `scheduling.Scheduled` has it), `macs`, `tuned` and `source`
            (names of ONNX nodes), in the order of execution.
    """

    library: Path
    info: dict[str, Any]


def compile_network(
    onnx: Path,
    board: Board,
    preprocess: Preprocess,
    out: Path,
    *,
    database: Path | None = None,
    dump: Path | None = None,
    precision: Precision = "float32",
) -> CompiledNetwork:
    """Compile a classifier for a board.

    Args:
        onnx: float32 `[1, 3, r, r]`, already normalised, to `[1, k]`.
        preprocess: the normalisation; it becomes part of the compiled network.
        out: the shared library to write.
        database: file of tuning records; without it, or for a kernel that it does not know, the
            untuned schedule is used.
        dump: folder for the IR after each phase.
        precision: of real numbers ("float16" needs a board with such arithmetic); what the file
            quantises is of 8 bits with either, and the rest of such a file float32.

    Raises:
        InputError: the ONNX file or the database is missing or damaged.
        CompileError: an operator cannot be compiled, or linking fails.
        BoardError: nothing can be compiled for the board.
    """
    begun = time.perf_counter()
    require_supported(board)
    records = None if database is None else open_database(database, board)
    mod = prepare(onnx, board, preprocess, dump, precision)
    executable, scheduled = finish(mod, board, records.lookup if records else None, dump, precision)
    with writing(out) as temporary:
        executable.export_library(str(temporary), fcompile=linker(board))
    layers = [{**call, **asdict(scheduled[call["kernel"]])} for call in calls(mod)]
    info = {
        "macs": sum(layer["macs"] for layer in layers),
        "layers": layers,
        "tuned_layers": sum(layer["tuned"] for layer in layers),
        "records_used": sum(how.tuned for how in scheduled.values()),
        "tuned_by": {} if records is None else _kinds(mod, records, layers, board),
        "seconds": round(time.perf_counter() - begun, 3),
    }
    return CompiledNetwork(out, info)


def _kinds(
    mod: IRModule, records: Database, layers: list[dict[str, Any]], board: Board
) -> dict[str, int]:
    """How many tuned layers rest on records of each kind: `real`, `cost`, `emulated`."""
    import tvm

    target = tvm.target.Target(board.tvm_target())
    found = (
        records.best(as_words(mod[layer["kernel"]]), target) for layer in layers if layer["tuned"]
    )
    return dict(Counter(str(record.measured) for record in found if record is not None))
