"""State and behaviour of the simulated service."""
