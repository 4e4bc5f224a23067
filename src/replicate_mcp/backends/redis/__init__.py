"""One Redis or Valkey server shared by a fleet of machines."""
