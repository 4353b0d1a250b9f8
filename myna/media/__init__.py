"""Media decoding outside the front: a process for each stream and file, since FFmpeg meets hostile bytes there."""
