"""Speech detection: voice activity, segments, the end of a turn."""
