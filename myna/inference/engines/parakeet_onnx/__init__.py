"""NVIDIA Parakeet on onnxruntime, without torch."""
