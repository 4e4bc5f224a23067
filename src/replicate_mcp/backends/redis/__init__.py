"""The Redis backend: one Redis or Valkey server shared by a fleet of machines."""
