"""Routes of Replicate's API and of the simulator's controls."""
