"""Moonshine on onnxruntime, the default engine."""
