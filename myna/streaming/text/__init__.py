"""How recognised words are written for a client."""
