"""Access to Replicate's API: calls, errors, model lookup, and matching of lost responses."""
