"""The native live protocol, strict JSON, and the quoting of foreign text in messages."""
