"""What one kernel reads: its placeholders, and activations as functions of their indices.

Quantised activations are read as words (`integer.py`) by convolutions whose weights are quantised
too, and as real numbers by all else.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from ..runner.spec import Preprocess
from .graph import Layer, Value
from .integer import WORD
from .machine import Machine
from .stage import Expression, Index, bounded


class Operands:
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
