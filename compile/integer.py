"""Eight-bit arithmetic of a core: how numbers lie in memory, and how their products are summed.

Activations and weights are read as *words*: the 32-bit numbers that hold four neighbouring inputs.
`dot` of two words adds the products of what they hold, so that to the schedules an 8-bit
convolution is one over words: same loops, same register tile, another multiplication. Each
instruction set has an operator of its own in TIR, which vectorises like a multiplication and
becomes the core's instruction when code is generated:

- `sdot`: Armv8.2's dot product, four products and their sum in one instruction;
- `smull`: Armv8's widening multiplication, and two pairwise additions;
- `vpdpbusd`: x86 with VNNI, one instruction;
- `pmaddubsw`: x86 without it; sums of two products have to fit 16 bits, so that weights are
  limited (`fitted`);
- `plain`: additions and multiplications, where there is nothing better.

The first factor of both x86 instructions has no sign: there, activations are stored 128 higher.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ..targets import Board

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

Instruction = Literal["sdot", "smull", "vpdpbusd", "pmaddubsw", "plain"]
WORD = 4
LOW, HIGH = -128, 127
_PAIR = 128  # two products of 255 and weights that sum up to this fit 16 bits

_DOT = "tirx.edgecompress_dot_"
_NARROW = "tirx.edgecompress_narrow_"
_INTERLEAVE = "tirx.edgecompress_interleave_"
_PURE = 1  # TVM's CallEffectKind::kPure


@dataclass(frozen=True)
class Integer:
    """How a core computes with quantised numbers. Frozen, so that it can key a cache.

    Attributes:
        instruction: that sums products.
        dtype: of an activation in memory.
        offset: what a quantised number (-128 to 127) is stored higher by.
        operations: instructions of one dot product.
        temporaries: vector registers that one dot product needs beside its sum and its factors.
    """

    instruction: Instruction
    dtype: str
    offset: int = 0
    operations: int = 1
    temporaries: int = 0

    def dot(self, inputs: Any, weights: Any) -> Any:
        """The sum of products of two words' numbers, int32."""
        from tvm import tirx

        return tirx.call_intrin("int32", _operator(_DOT + self.instruction), inputs, weights)

    def interleave(self, values: Sequence[Any]) -> Any:
        """A word of so many stored numbers, int32."""
        from tvm import tirx

        return tirx.call_intrin("int32", _operator(_INTERLEAVE + self.instruction), *values)

    def narrow(self, value: Any) -> Any:
        """A float32, rounded (half to even) and limited to what an activation can be."""
        from tvm import tirx

        return tirx.call_intrin(self.dtype, _operator(_NARROW + self.instruction), value)

    def words(self, quantised: np.ndarray) -> np.ndarray:
        """Weights `[..., WORD]` as words `[...]`."""
        return np.ascontiguousarray(quantised.astype("int8")).view("int32")[..., 0]

    def fitted(
        self, weight: np.ndarray, scale: np.ndarray, axis: int, overlapping: bool = False
    ) -> tuple[np.ndarray, np.ndarray]:
        """Weights and what one of them is worth `[outputs]`, such that no sum overflows.

        `pmaddubsw` adds two products of 255 and a weight in 16 bits: where two weights that meet
        there sum up to more than 128, all of the output's weights are rounded to larger steps, so
        that between seven and eight bits of them are left.

        Args:
            weight: `[outputs, ...]`, whole numbers.
            axis: along which neighbours share a word.
            overlapping: any two neighbours may meet, not only each second one and the next.
        """
        if self.instruction != "pmaddubsw":
            return weight, scale
        sizes = np.moveaxis(np.abs(weight), axis, -1)
        odd = [(0, 0)] * (sizes.ndim - 1) + [(0, sizes.shape[-1] % 2)]
        sizes = np.pad(sizes, odd)
        step = 1 if overlapping else 2
        pairs = sizes[..., :-1:step] + sizes[..., 1::step]
        largest = pairs.reshape(len(weight), -1).max(1).clip(_PAIR)
        # One less: rounding may raise a pair by one.
        factor = np.where(largest > _PAIR, (_PAIR - 1) / largest, 1.0)
        by_output = factor.reshape(-1, *[1] * (weight.ndim - 1))
        return np.rint(weight * by_output), scale / factor


_INTEGERS = {
    "sdot": Integer("sdot", "int8"),
    "smull": Integer("smull", "int8", operations=4, temporaries=3),
    "vpdpbusd": Integer("vpdpbusd", "uint8", 128),
    "pmaddubsw": Integer("pmaddubsw", "uint8", 128, operations=3, temporaries=2),
    "plain": Integer("plain", "int8", operations=16, temporaries=3),
}


def integer_of(board: Board) -> Integer:
    """What a board's cores have."""
    if board.arch == "aarch64":
        return _INTEGERS["sdot" if "+dotprod" in board.mattr else "smull"]
    if "+avx512vnni" in board.mattr:
        return _INTEGERS["vpdpbusd"]
    return _INTEGERS["plain" if board.mcpu == "x86-64" else "pmaddubsw"]


VIEWS = "edgecompress.views"


def as_stored(func: PrimFunc, integer: Integer) -> PrimFunc:
    """A kernel over words as one over what lies in memory: the form that networks call.

    The attribute `VIEWS` numbers the parameters that are read as words.
    """
    from tvm import tirx
    from tvm.tirx.buffer import buffer_data, decl_buffer

    fields: Any = func
    parameters, declared = list(fields.params), []
    for place in _views(func):
        words = parameters[place]
        shape = [*words.shape[:-1], words.shape[-1] * WORD]
        parameters[place] = decl_buffer(shape, integer.dtype, words.name)
        declared.append(tirx.DeclBuffer(words, data=buffer_data(parameters[place])))
    if not declared:
        return func
    body = tirx.SeqStmt([*declared, fields.body])
    return tirx.PrimFunc(parameters, body, fields.ret_type, fields.attrs)


def as_words(func: PrimFunc) -> PrimFunc:
    """What `as_stored` was given: the form that is scheduled."""
    from tvm import tirx

    fields: Any = func
    views = _views(func)
    if not views:
        return func
    *declared, body = fields.body.seq
    parameters = list(fields.params)
    for place, view in zip(views, declared, strict=True):
        parameters[place] = view.buffer
    return tirx.PrimFunc(parameters, body, fields.ret_type, fields.attrs)


def _views(func: PrimFunc) -> list[int]:
    return [int(place) for place in (func.attrs or {}).get(VIEWS, ())]


def register() -> None:
    """Make TIR's operators known: before kernels that have them are read."""
    for prefix, lowering in _LOWERINGS.items():
        for instruction in lowering:
            _operator(prefix + instruction)


@cache
def _operator(name: str) -> str:
    """Register one of our operators with TVM, once a process; its name."""
    from tvm.ir import Op, _ffi_api
    from tvm.tirx.op import register_intrin_lowering

    api: Any = _ffi_api  # TVM has no other way to add an operator from Python
    api.RegisterOp(name, "of EdgeCompress")
    op = Op.get(name)
    op.set_attr("TVectorizable", True)
    op.set_attr("TCallEffectKind", _PURE)
    op.set_attr("TScriptPrinterName", name.removeprefix("tirx."))
    kind, instruction = name.rsplit("_", 1)
    register_intrin_lowering(name, "llvm", f=_LOWERINGS[f"{kind}_"][instruction], level=99)
    return name


# What operators become. Vectors have as many lanes as their loops were vectorised by.


def _lanes(call: Any) -> int:
    return int(call.ty.dtype.lanes)


def _vector(dtype: str, lanes: int) -> str:
    return dtype if lanes == 1 else f"{dtype}x{lanes}"


def _llvm(name: str, dtype: str, *arguments: Any) -> Any:
    from tvm import tirx

    return tirx.call_llvm_pure_intrin(dtype, f"llvm.{name}", *arguments)


def _as(dtype: str, value: Any) -> Any:
    from tvm import tirx

    return tirx.reinterpret(dtype, value)


def _shuffled(vectors: Sequence[Any], places: Sequence[int]) -> Any:
    """Lanes of vectors that are thought of as one after the other."""
    from tvm import tirx

    return tirx.Shuffle(list(vectors), [tirx.const(place, "int32") for place in places])


def _part(value: Any, start: int, count: int) -> Any:
    """Lanes of a vector."""
    return _shuffled([value], range(start, start + count))


def _joined(parts: Sequence[Any], lanes: int) -> Any:
    """Vectors of `lanes` each, one after the other."""
    return parts[0] if len(parts) == 1 else _shuffled(parts, range(lanes * len(parts)))


def _repeated(number: int, dtype: str, lanes: int) -> Any:
    from tvm import tirx

    broadcast: Any = tirx.Broadcast  # declares its lanes as an expression only
    return broadcast(tirx.const(number, dtype), lanes)


def _plain(inputs: Any, weights: Any, *, signed: bool) -> Any:
    """A dot product in plain integer operations."""
    from tvm import tirx

    total: Any = tirx.const(0, "int32")
    for up in (24, 16, 8, 0):
        value, weight = ((word << up) >> 24 for word in (inputs, weights))
        total = total + (value if signed else value & 255) * weight
    return total


def _sdot(call: Any) -> Any:
    inputs, weights = call.args
    if _lanes(call) != 4:
        return _plain(inputs, weights, signed=True)
    # Added to a sum by the compiler: the instruction itself takes the sum so far.
    factors = _as("int8x16", weights), _as("int8x16", inputs)
    return _llvm("aarch64.neon.sdot", "int32x4", _repeated(0, "int32", 4), *factors)


def _smull(call: Any) -> Any:
    inputs, weights = call.args
    if _lanes(call) != 4:
        return _plain(inputs, weights, signed=True)
    halves = []
    for start in (0, 8):
        factors = (_part(_as("int8x16", factor), start, 8) for factor in (weights, inputs))
        halves.append(_llvm("aarch64.neon.smull", "int16x8", *factors))
    # Two products fit 16 bits: weights are never -128 (graph.py).
    pairs = _llvm("aarch64.neon.addp", "int16x8", *halves)
    return _llvm("aarch64.neon.saddlp", "int32x4", pairs)


def _vpdpbusd(call: Any) -> Any:
    inputs, weights = call.args
    lanes = _lanes(call)
    if lanes not in (4, 8, 16):
        return _plain(inputs, weights, signed=False)
    name = f"x86.avx512.vpdpbusd.{32 * lanes}"
    factors = (_as(f"int8x{4 * lanes}", factor) for factor in (inputs, weights))
    return _llvm(name, f"int32x{lanes}", _repeated(0, "int32", lanes), *factors)


def _pmaddubsw(call: Any) -> Any:
    inputs, weights = call.args
    lanes = _lanes(call)
    names = {
        4: ("x86.ssse3.pmadd.ub.sw.128", "x86.sse2.pmadd.wd"),
        8: ("x86.avx2.pmadd.ub.sw", "x86.avx2.pmadd.wd"),
        16: ("x86.avx512.pmaddubs.w.512", "x86.avx512.pmaddw.d.512"),
    }
    if lanes not in names:
        return _plain(inputs, weights, signed=False)
    products, sums = names[lanes]
    factors = (_as(f"int8x{4 * lanes}", factor) for factor in (inputs, weights))
    pairs = _llvm(products, f"int16x{2 * lanes}", *factors)
    return _llvm(sums, f"int32x{lanes}", pairs, _repeated(1, "int16", 2 * lanes))


def _plain_dot(call: Any) -> Any:
    return _plain(*call.args, signed=True)


def _limited(value: Any, low: int, high: int, dtype: str) -> Any:
    """Whole numbers within bounds; of `dtype`, which TVM would otherwise widen to the bounds'."""
    from tvm import tirx

    return tirx.max(tirx.min(value, tirx.const(high, dtype)), tirx.const(low, dtype))


def _rounded(value: Any, lanes: int) -> Any:
    from tvm import tirx

    return tirx.Cast(_vector("int32", lanes), tirx.nearbyint(value))


def _narrow_any(call: Any, dtype: str, low: int, high: int) -> Any:
    from tvm import tirx

    lanes = _lanes(call)
    value = _limited(_rounded(call.args[0], lanes), low, high, "int32")
    return tirx.Cast(_vector(dtype, lanes), value)


def _narrow_neon(call: Any) -> Any:
    """Two saturating instructions halve the numbers' width twice."""
    lanes, value = _lanes(call), call.args[0]
    if lanes % 8:
        return _narrow_any(call, "int8", LOW, HIGH)
    quarters = [
        _llvm(
            "aarch64.neon.sqxtn",
            "int16x4",
            _llvm("aarch64.neon.fcvtns", "int32x4", _part(value, start, 4)),
        )
        for start in range(0, lanes, 4)
    ]
    halves = [
        _llvm("aarch64.neon.sqxtn", "int8x8", _joined(quarters[place : place + 2], 4))
        for place in range(0, len(quarters), 2)
    ]
    return _joined(halves, 8)


def _narrow_signed(call: Any) -> Any:
    return _narrow_any(call, "int8", LOW, HIGH)


def _narrow_x86(call: Any) -> Any:
    """Packed twice, by instructions that limit what they pack."""
    lanes, value = _lanes(call), call.args[0]
    if lanes % 16:
        return _narrow_any(call, "uint8", 0, 255)
    # More than 16 are stored at once only where registers are wider than 128 bits.
    pack = _packed if lanes == 16 else _packed_by_avx2
    return _joined([pack(_part(value, start, 16)) for start in range(0, lanes, 16)], 16)


def _packed(value: Any) -> Any:
    """16 numbers."""
    rounded = [_llvm("x86.sse2.cvtps2dq", "int32x4", _part(value, at, 4)) for at in (0, 4, 8, 12)]
    halves = [_llvm("x86.sse2.packssdw.128", "int16x8", *rounded[at : at + 2]) for at in (0, 2)]
    return _llvm("x86.sse2.packuswb.128", "uint8x16", *halves)


def _packed_by_avx2(value: Any) -> Any:
    """16 numbers, in registers of 256 bits."""
    rounded = [_llvm("x86.avx.cvt.ps2dq.256", "int32x8", _part(value, at, 8)) for at in (0, 8)]
    halves = _llvm("x86.avx2.packssdw", "int16x16", *rounded)
    mixed = _llvm("x86.sse2.packuswb.128", "uint8x16", *(_part(halves, at, 8) for at in (0, 8)))
    # Each half of a 256-bit register was packed alone: the middle quarters change places.
    return _shuffled([mixed], [*range(4), *range(8, 12), *range(4, 8), *range(12, 16)])


def _interleave(call: Any) -> Any:
    from tvm import tirx

    values, lanes = list(call.args), _lanes(call)
    if lanes == 1:
        bits = 32 // len(values)
        total: Any = tirx.const(0, "int32")
        for place, value in enumerate(values):
            whole = value.astype("int32") & ((1 << bits) - 1)
            total = total | (whole << (place * bits))
        return total
    order = [lane + place * lanes for lane in range(lanes) for place in range(len(values))]
    return _as(f"int32x{lanes}", _shuffled(values, order))


_DOTS: dict[str, Callable[[Any], Any]] = {
    "sdot": _sdot,
    "smull": _smull,
    "vpdpbusd": _vpdpbusd,
    "pmaddubsw": _pmaddubsw,
    "plain": _plain_dot,
}
_NARROWS: dict[str, Callable[[Any], Any]] = {
    "sdot": _narrow_neon,
    "smull": _narrow_neon,
    "vpdpbusd": _narrow_x86,
    "pmaddubsw": _narrow_x86,
    "plain": _narrow_signed,
}
_LOWERINGS: dict[str, dict[str, Callable[[Any], Any]]] = {
    _DOT: _DOTS,
    _NARROW: _NARROWS,
    _INTERLEAVE: dict.fromkeys(_INTEGERS, _interleave),
}
