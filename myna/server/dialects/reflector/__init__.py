"""Reflector's clients."""
