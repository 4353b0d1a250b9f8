"""A WebSocket from its upgrade to its close, for every dialect."""
