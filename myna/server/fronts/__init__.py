"""Several front processes on one host, and the engine process that they share."""
