"""Files and URLs: the batch path."""
