"""One kernel under construction: its parameters, and what makes a PrimFunc of its stages.

Stages: `pad` (zeros round the input, and the first layer's normalisation), `gather` (the input
under a window), `main` (the operator's sum or maximum), `epilogue` (bias and all that is fused),
`out` (the result as it lies in memory, where that differs).

Quantised activations are read as words (`integer.py`) by convolutions whose weights are quantised
too, and as real numbers by all else.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ..runner.spec import Preprocess
from .epilogue import Affine, Epilogue
from .graph import Layer, Value
from .integer import VIEWS, WORD, as_stored
from .machine import Machine
from .stage import Expression, Index, bounded, compute, started

if TYPE_CHECKING:
    from tvm.tirx import PrimFunc

ATTRIBUTE = "edgecompress."


@dataclass(frozen=True, eq=False)
class Kernel:
    """One layer as TIR.

    Attributes:
        func: unscheduled; its parameters are the activations, the constants and the result.
        activations: names of the activations that it reads, in the order of the parameters.
        constants: the arrays that follow them.
        shape: of the result.
        dtype: of the result.
    """

    func: PrimFunc
    activations: tuple[str, ...]
    constants: tuple[np.ndarray, ...]
    shape: tuple[int, ...]
    dtype: str


class Builder:
    """Collects the parameters of one kernel."""

    def __init__(
        self,
        layer: Layer,
        values: Mapping[str, Value],
        machine: Machine,
        source: tuple[str, Preprocess],
        final: bool,
    ) -> None:
        self.layer = layer
        self.values = values
        self.machine = machine
        self.source, self.preprocess = source
        self.final = final
        self.activations: dict[tuple[str, bool], Any] = {}
        self.placeholders: list[Any] = []
        self.constants: list[np.ndarray] = []

    def physical(self, value: Value) -> int:
        """Channels of an activation in memory; of the image they are its three."""
        if value.name == self.source:
            return value.channels
        if value.tight:
            return -(-value.channels // WORD) * WORD
        return self.machine.channels(value.channels)

    def stored_zero(self, value: Value) -> int:
        """What memory holds for the real number 0 in a quantised activation."""
        assert value.quantization is not None
        return value.quantization.zero + self.machine.integer.offset

    def activation(self, name: str, words: bool = False) -> Any:
        """The placeholder of an activation.

        Args:
            words: as 32-bit numbers, each of which holds several neighbouring channels.
        """
        from tvm import te

        if (name, words) not in self.activations:
            value, integer = self.values[name], self.machine.integer
            channels, dtype = self.physical(value), self.machine.dtype
            if name == self.source:
                dtype = "uint8"
            elif value.quantization is not None:
                dtype = "int32" if words else integer.dtype
                channels = channels // WORD if words else channels
            shape = (1, value.height, value.width, channels)
            placeholder = te.placeholder(shape, dtype, f"x{len(self.activations)}")
            self.activations[name, words] = placeholder
        return self.activations[name, words]

    def constant(self, array: np.ndarray, name: str, dtype: str = "") -> Any:
        """The placeholder of a constant, of the machine's own type unless told otherwise."""
        from tvm import te

        array = np.ascontiguousarray(array, dtype or self.machine.dtype)
        self.constants.append(array)
        label = f"{name}{len(self.constants)}"
        placeholder = te.placeholder(array.shape, str(array.dtype), label)
        self.placeholders.append(placeholder)
        return placeholder

    def stored(self, name: str, words: bool = False) -> Index:
        """An activation as memory holds it, as a function of its indices."""
        x = self.activation(name, words)
        return lambda h, w, c: x[0, h, w, c]

    def normalised(self, name: str, channels: int) -> Index:
        """An activation's real numbers as a function of its indices; the image in the network's
        own scale.

        Args:
            channels: that are read; of those beyond the ones in memory zeros.
        """
        from tvm import te

        value, physical = self.values[name], self.physical(self.values[name])
        read, dtype = self.stored(name), self.machine.dtype
        if name == self.source:
            mean = self.constant(np.array(self.preprocess.mean), "mean", "float32")
            scale = self.constant(1 / np.array(self.preprocess.std), "scale", "float32")

            def real(h: Expression, w: Expression, c: Expression) -> Expression:
                return ((read(h, w, c).astype("float32") - mean[c]) * scale[c]).astype(dtype)
        elif value.quantization is not None:
            zero, unit = float(self.stored_zero(value)), value.quantization.scale

            def real(h: Expression, w: Expression, c: Expression) -> Expression:
                return (read(h, w, c).astype(dtype) - zero) * unit
        else:
            real = read
        return bounded(real, physical, channels, te.const(0.0, dtype))

    def finish(
        self,
        stage: Any,
        flat: bool = False,
        affine: Affine | None = None,
        *,
        raw: bool = False,
        starts: bool = False,
    ) -> Kernel:
        """Epilogue, crop and PrimFunc.

        Args:
            stage: the operator's result: `[height * width, channels]` if flat, else
                `[1, height, width, channels]`.
            affine: what makes real numbers of that; None where they are real.
            raw: the result is what memory shall hold.
            starts: the result is a sum, which can begin with its bias.
        """
        from tvm import te

        output = self.layer.output
        width, channels = output.width, int(stage.shape[-1])
        epilogue = None if raw else Epilogue(self, channels, affine, starts=starts)

        def applied(value: Expression, h: Expression, w: Expression, c: Expression) -> Expression:
            return epilogue(value, h, w, c) if epilogue else value

        if flat:
            result = compute(
                stage.shape,
                lambda m, c: applied(stage[m, c], m // width, m % width, c),
                name="epilogue",
            )
        else:
            result = compute(
                stage.shape,
                lambda n, h, w, c: applied(stage[n, h, w, c], h, w, c),
                name="epilogue",
            )
        if self.final:
            last, whole = result, output.quantization
            zero, unit = (0.0, 1.0) if whole is None else (self.stored_zero(output), whole.scale)

            def given(_: Expression, c: Expression) -> Expression:
                value = (last[0, c] if flat else last[0, 0, 0, c]).astype("float32")
                return value if whole is None else (value - float(zero)) * unit

            result = compute((1, output.channels), given, name="out")
        elif flat:
            flattened = result
            result = compute(
                (1, output.height, width, channels),
                lambda _, h, w, c: flattened[h * width + w, c],
                name="out",
            )
        parameters = [*self.activations.values(), *self.placeholders, result]
        func: Any = te.create_prim_func(parameters)
        if epilogue is not None and epilogue.start is not None:
            place = next(i for i, one in enumerate(parameters) if one is epilogue.start)
            func = started(func, place)
        shape = tuple(int(size) for size in result.shape)
        views = [place for place, (_, words) in enumerate(self.activations) if words]
        attributes = _attributes(self.layer, self.machine)
        return Kernel(
            as_stored(func.with_attrs({**attributes, VIEWS: views}), self.machine.integer),
            tuple(name for name, _ in self.activations),
            tuple(self.constants),
            shape,
            str(result.dtype),
        )


def _attributes(layer: Layer, machine: Machine) -> dict[str, Any]:
    """What schedules, profiles and tuning read of a kernel; nothing of its network."""
    window = layer.window
    attributes: dict[str, Any] = {"op": layer.op, "macs": layer.macs}
    if window is not None:
        attributes["window"] = "x".join(map(str, window.kernel)) + f"s{window.strides[1]}"
    if layer.weight_scale is not None:
        attributes["type"] = "int8"
    elif machine.dtype != "float32":
        attributes["type"] = machine.dtype
    if layer.op == "conv2d":
        output = layer.output
        attributes |= {
            "height": output.height,
            "width": output.width,
            "pack": machine.pack(output.channels),
        }
    return {ATTRIBUTE + key: value for key, value in attributes.items()}
