"""Shared permits: who may start now, by one decision."""
