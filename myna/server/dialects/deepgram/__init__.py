"""Deepgram's live, turn-taking (Flux) and pre-recorded APIs."""
