"""What follows an operator in its kernel: scale, bias, activation, residual sum, quantisation.

Where the result is quantised and every step only adds or limits, the whole of it is done in the
result's own unit: the scale of the sums, the bias and the zero point become one multiplication and
one addition, limits that the 8 bits have anyway fall away, and a real number is never made.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .graph import Step, Value
from .integer import HIGH, LOW
from .operands import Operands
from .stage import Expression, like

Applied = Callable[[Expression, Expression, Expression, Expression], Expression]

_LIMITS = ("relu", "clip")
_COARSE = 0.05  # of a step of the result: half of that is lost where a sum begins with its bias
_LARGEST = 1 << 24  # whole numbers up to here are float32's too
_LINEAR = ("add", "sub", *_LIMITS)  # steps that commute with a change of the unit


@dataclass(frozen=True, eq=False)
class Affine:
    """What makes real numbers of an operator's sums: `scale * (sum - nothing)`, an output each."""

    scale: np.ndarray
    nothing: np.ndarray


class Epilogue:
    """The steps after an operator as one function of its result and of row, column and channel.

    Args:
        operands: of the layer that it is of.
        channels: of the result in memory.
        affine: of sums that are not real numbers yet.
        starts: the result is a sum that can begin with what would be added to it: then nothing is.

    Attributes:
        start: what the sums begin with, an output each, as a placeholder; None is 0.
    """

    def __init__(
        self, operands: Operands, channels: int, affine: Affine | None, *, starts: bool
    ) -> None:
        self._operands = operands
        self._channels = channels
        self._limited = False
        self._unit, self._zero = 1.0, 0.0
        layer = operands.layer
        steps, result = list(layer.epilogue), layer.output.quantization
        if result is not None:
            assert steps[-1].kind == "quantize"
            steps.pop()
        whole = (
            (1 / result.scale, float(operands.stored_zero(layer.output))) if result else (1.0, 0.0)
        )
        if all(step.kind in _LINEAR for step in steps):
            self._unit, self._zero = whole
        scale = np.full(channels, self._unit)
        shift = np.full(channels, self._zero)
        own = layer.output.channels
        if affine is not None:
            scale[:own] *= affine.scale
            scale[own:] = 0
            shift[:own] -= scale[:own] * affine.nothing
        if layer.bias is not None:
            shift[:own] += self._unit * layer.bias
        applied = [self._step(step, shift, last=step is steps[-1]) for step in steps]
        self.start = self._started(scale, shift, affine) if starts else None
        self._steps = [*self._scaled(scale, shift, affine), *applied]
        if (self._unit, self._zero) != whole:
            unit, zero = whole
            self._steps.append(lambda value, h, w, c: value * like(unit, value) + like(zero, value))
        if result is not None:
            integer = operands.machine.integer
            self._steps.append(lambda value, h, w, c: integer.narrow(value))

    def __call__(
        self, value: Expression, h: Expression, w: Expression, c: Expression
    ) -> Expression:
        """The result of one sum."""
        for step in self._steps:
            value = step(value, h, w, c)
        return value

    def _started(self, scale: np.ndarray, shift: np.ndarray, affine: Affine | None) -> Any:
        """Move what is added from the end of the sums to their beginning, where that is exact
        enough; returns it.
        """
        own = self._operands.layer.output.channels
        if ((scale[:own] == 0) & (shift[:own] != 0)).any():
            return None  # no beginning is added to what is then multiplied by nothing
        start = np.divide(shift, scale, out=np.zeros_like(shift), where=scale != 0)
        if affine is not None:
            start = np.rint(start)
            # A sum's smallest step has to be small beside one of the result, which is 1 here.
            coarse = self._unit != 1 and scale.max() > _COARSE
            if coarse or np.abs(start).max() > _LARGEST:
                return None
        if not start.any():
            return None
        shift[:] = 0
        return self._operands.constant(start, "start", "int32" if affine is not None else "")

    def _scaled(self, scale: np.ndarray, shift: np.ndarray, affine: Affine | None) -> list[Applied]:
        """One multiplication and one addition, as far as there is anything to do."""
        dtype = self._operands.machine.dtype
        found: list[Applied] = []
        if affine is not None:
            found.append(lambda value, h, w, c: value.astype(dtype))
        if affine is not None and self._constant(scale) is None:
            factors = self._operands.constant(scale, "scale")
            found.append(lambda value, h, w, c: value * factors[c])
        elif affine is not None or self._unit != 1:
            factor = float(scale[0])
            found.append(lambda value, h, w, c: value * like(factor, value))
        constant = self._constant(shift)
        if constant is None:
            shifts = self._operands.constant(shift, "bias")
            found.append(lambda value, h, w, c: value + shifts[c])
        elif constant:
            found.append(lambda value, h, w, c: value + like(constant, value))
        return found

    def _constant(self, array: np.ndarray) -> float | None:
        """The number that all are, or None."""
        return float(array[0]) if (array == array[0]).all() else None

    def _step(self, step: Step, shift: np.ndarray, last: bool) -> Applied:
        """One step in the epilogue's unit; what it adds alike to all pixels goes into `shift`."""
        if step.kind in _LIMITS:
            self._limited = True
            return self._limit(step, last)
        if step.kind in ("add", "sub"):
            return self._sum(step, shift)
        self._limited = True
        operand, dtype = self._operand(step), self._operands.machine.dtype
        return lambda value, h, w, c: _STEPS[step.kind](value, operand(h, w, c), dtype)

    def _limit(self, step: Step, last: bool) -> Applied:
        low, high = (0.0, np.inf) if step.kind == "relu" else _bounds(step)
        low, high = (bound * self._unit + self._zero for bound in (low, high))
        if last and self._unit != 1:
            offset = self._operands.machine.integer.offset
            # What the 8 bits limit anyway; half a step is lost in rounding.
            low = -np.inf if low <= LOW + offset + 0.5 else low
            high = np.inf if high >= HIGH + offset - 0.5 else high
        dtype = self._operands.machine.dtype
        return lambda value, h, w, c: _clip(value, (low, high), dtype)

    def _sum(self, step: Step, shift: np.ndarray) -> Applied:
        """Add or subtract an activation or constants."""
        sign = 1.0 if step.kind == "add" else -1.0
        factor, operand = sign * self._unit, step.operand
        if isinstance(operand, str):
            value = self._operands.values[operand]
            # The image has fewer channels in memory than others of as many.
            there = self._operands.physical(value) >= self._channels
            if value.quantization is not None and there and not self._limited:
                factor *= value.quantization.scale
                shift -= factor * self._operands.stored_zero(value)
                whole = self._pixel(value, self._operands.stored(operand))
                dtype = self._operands.machine.dtype
                return lambda total, h, w, c: total + whole(h, w, c).astype(dtype) * factor
        elif not self._limited:
            extra = np.asarray(operand, np.float64)
            shift[: max(extra.size, 1) if extra.ndim else len(shift)] += factor * extra
            return lambda total, h, w, c: total
        real = self._operand(step)
        if factor == 1:
            return lambda total, h, w, c: total + real(h, w, c)
        return lambda total, h, w, c: total + real(h, w, c) * like(factor, total)

    def _operand(self, step: Step) -> Callable[..., Any]:
        from tvm.tirx import const

        operand = step.operand
        if isinstance(operand, str):
            read = self._operands.normalised(operand, self._channels)
            return self._pixel(self._operands.values[operand], read)
        if isinstance(operand, np.ndarray):
            full = np.zeros(self._channels, "float32")
            full[: operand.size] = operand
            padded = self._operands.constant(full, step.kind)
            return lambda h, w, c: padded[c]
        dtype = self._operands.machine.dtype
        if isinstance(operand, float):
            return lambda h, w, c: const(operand, dtype)
        return lambda h, w, c: operand

    def _pixel(self, value: Value, read: Callable[..., Any]) -> Callable[..., Any]:
        """An activation's number for a pixel; of a single pixel it is the same for all."""
        single = value.height * value.width == 1
        return lambda h, w, c: read(0, 0, c) if single else read(h, w, c)


def _bounds(step: Step) -> tuple[float, float]:
    assert isinstance(step.operand, tuple)
    return step.operand


def _clip(value: Any, bounds: tuple[float, float], dtype: str) -> Expression:
    import tvm

    low, high = bounds
    if low > -np.inf:
        value = tvm.tirx.max(value, tvm.tirx.const(low, dtype))
    if high < np.inf:
        value = tvm.tirx.min(value, tvm.tirx.const(high, dtype))
    return value


def _sigmoid(value: Any, _: Any, __: str) -> Expression:
    import tvm

    return tvm.tirx.sigmoid(value)


def _tanh(value: Any, _: Any, __: str) -> Expression:
    import tvm

    return tvm.tirx.tanh(value)


def _hard_sigmoid(value: Any, line: Any, dtype: str) -> Expression:
    return _clip(value * like(line[0], value) + like(line[1], value), (0.0, 1.0), dtype)


_STEPS: dict[str, Callable[[Any, Any, str], Expression]] = {
    "sigmoid": _sigmoid,
    "tanh": _tanh,
    "hard_sigmoid": _hard_sigmoid,
    "mul": lambda value, other, _: value * other,
    "rsub": lambda value, other, _: other - value,
}
