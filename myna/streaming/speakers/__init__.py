"""Who spoke: runs of one voice, their clustering, and labels that stay over time. Pure."""
