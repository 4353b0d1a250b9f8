"""Models, and the workers that run them."""
