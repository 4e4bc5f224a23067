"""Limits on requests: size, time, number and share of each client."""
