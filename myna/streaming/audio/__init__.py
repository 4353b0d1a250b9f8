"""Decodes audio of every supported format to int16 at 16 kHz for each channel."""
