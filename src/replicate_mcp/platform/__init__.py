"""Differences between Linux, macOS and Windows; no other package tests the operating system."""
