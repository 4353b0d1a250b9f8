"""Formatting of recognised words for a client."""
