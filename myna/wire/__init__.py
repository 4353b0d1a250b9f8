"""The native live protocol, and how JSON and other people's text are written on any wire."""
