"""Models, and the processes that run them."""
