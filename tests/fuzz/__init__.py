"""Mutated models: each must give a `LowbitError` or ONNX Runtime's result."""
