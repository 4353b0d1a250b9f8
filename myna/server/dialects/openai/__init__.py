"""OpenAI's audio and Realtime APIs."""
