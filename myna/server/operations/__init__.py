"""What operators watch and limit: admission, metrics, the event loop."""
