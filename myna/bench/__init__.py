"""Measurements of a server; this room may import every other one."""
