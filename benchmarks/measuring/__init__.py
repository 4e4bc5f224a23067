"""The engine and the raw client, measured side by side: scenarios, contestants, table and plot."""
