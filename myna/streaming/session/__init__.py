"""One live stream: its channels, their decodes and hypotheses, the events that leave it."""
