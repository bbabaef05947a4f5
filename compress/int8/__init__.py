"""Networks in int8: calibration, quantisers in the ONNX file, and the gate."""
