"""One live stream: a session per channel, the decodes it requests, and the events it emits."""
