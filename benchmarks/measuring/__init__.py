"""Comparison of the engine with the raw client: scenarios, contestants, table and plot."""
