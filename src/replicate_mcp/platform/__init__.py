"""What differs between Linux, macOS and Windows; no other package asks which of them it runs on."""
