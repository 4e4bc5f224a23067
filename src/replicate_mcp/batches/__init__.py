"""Running batches, and what a backend promises them."""
