"""Media decoding in separate processes, one for each stream and file, since FFmpeg may process hostile bytes."""
