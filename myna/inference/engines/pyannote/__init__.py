"""Pipelines of pyannote.audio, from folders."""
