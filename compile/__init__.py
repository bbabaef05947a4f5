"""ONNX in, bundle out: front end, schedules, tuning over RPC, cross-compilation, the bundle."""
