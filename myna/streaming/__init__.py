"""The core: one live stream from bytes to events, and the engines. No sockets, no HTTP."""
