"""Networks that can be shrunk: families, a user's modules, weights, inheritance, ONNX."""
