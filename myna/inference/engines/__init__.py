"""Recognition engines behind one port (see `port`)."""
