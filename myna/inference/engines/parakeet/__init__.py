"""NVIDIA Parakeet through NeMo."""
