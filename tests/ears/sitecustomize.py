"""Ears for the fake engine's sounds in fronts that a test starts as processes; Python imports this module at its start."""

import sys

if "myna.server.child" in sys.orig_argv:
    from pathlib import Path

    sys.path.append(str(Path(__file__).parents[1]))

    from drive import amplitude_voice

    from myna.streaming.speech.silero import SileroVad

    SileroVad.probabilities = lambda _, parts: [amplitude_voice(0, pcm) for _, pcm in parts]
