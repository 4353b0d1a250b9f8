"""Operations: admission control, metrics, the event loop, draining."""
