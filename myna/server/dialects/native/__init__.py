"""The native live protocol (docs/protocol.md)."""
