"""Shared semaphores: permits, rates, and the function that admits what waits."""
