"""One kernel under construction: what makes a PrimFunc of its stages and parameters.

Stages: `pad` (zeros round the input, and the first layer's normalisation), `gather` (the input
under a window), `main` (the operator's sum or maximum), `epilogue` (bias and all that is fused),
`out` (the result as it lies in memory, where that differs).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .epilogue import Affine, Epilogue
from .graph import Layer
from .integer import VIEWS, as_stored
from .machine import Machine
from .operands import Operands
from .stage import Expression, compute, started

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


class Builder(Operands):
    """Makes the kernel of what has been collected."""

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
