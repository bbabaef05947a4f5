"""The same network on the same input in other engines: ONNX Runtime, ncnn, MNN, LiteRT."""

from .compare import Comparison, Row, compare

__all__ = ["Comparison", "Row", "compare"]
