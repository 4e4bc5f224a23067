"""Limits on requests: size, time, number, and the quota of each client."""
