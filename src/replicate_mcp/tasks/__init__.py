"""Pure rules: what a task is, what it gives back, how its files are called."""
