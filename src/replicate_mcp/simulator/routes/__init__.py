"""The routes of Replicate's API that the simulator answers."""
