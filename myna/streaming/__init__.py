"""The core: one live stream from samples to events. Pure: no socket, event loop, thread or clock."""
