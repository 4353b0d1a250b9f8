"""One file per wire dialect."""
