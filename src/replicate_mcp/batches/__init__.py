"""Running batches, and the interface of the backend that stores them."""
