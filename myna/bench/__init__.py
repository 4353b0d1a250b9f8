"""Measurements of a server, for docs and decisions; they may use every room."""
