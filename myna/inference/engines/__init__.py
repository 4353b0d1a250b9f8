"""Recognisers behind one port (see ``base``)."""
