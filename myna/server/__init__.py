"""Processes and the network: settings, connections, wire dialects."""
