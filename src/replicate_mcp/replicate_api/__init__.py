"""The way to Replicate: calls, faults, models, and what became of lost answers."""
