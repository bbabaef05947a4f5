"""Networks in ONNX Runtime."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np

from edgecompress.errors import CompileError


class Session:
    """A network in ONNX Runtime; int8 networks are simulated in float32.

    ONNX Runtime's own int8 kernels saturate on x86 without VNNI, which no ARM kernel does: they are
    switched off.

    Args:
        model: a path, or an ONNX `ModelProto`.
        name: what errors call it.

    Raises:
        CompileError: ONNX Runtime cannot load it.
    """

    def __init__(self, model: Path | Any, name: str) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = len(os.sched_getaffinity(0))
        options.log_severity_level = 3
        options.add_session_config_entry("session.disable_quant_qdq", "1")
        content = str(model) if isinstance(model, Path) else model.SerializeToString()
        self._name = name
        try:
            self._session = onnxruntime.InferenceSession(
                content, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # ONNX Runtime's errors share no public base
            raise self._failed(error) from error
        self._input = self._session.get_inputs()[0].name
        self.outputs = [one.name for one in self._session.get_outputs()]

    def __call__(self, image: np.ndarray) -> list[np.ndarray]:
        """All outputs for a float32 `[1, 3, r, r]`."""
        try:
            return [np.asarray(one) for one in self._session.run(None, {self._input: image})]
        except Exception as error:
            raise self._failed(error) from error

    def _failed(self, error: Exception) -> CompileError:
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        return CompileError(f"{self._name} does not run in ONNX Runtime: {first}")
