"""Where speech is: voice activity, segments, the end of a turn."""
