"""What clients of several vendors say: one folder for each vendor, and what the vendors share."""
