"""Backends: storage of semaphores, permits, rates and the journal."""
