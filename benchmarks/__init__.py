"""Benchmarks, each measured together with a baseline."""
