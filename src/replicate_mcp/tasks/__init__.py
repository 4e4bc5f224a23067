"""Tasks, their results and their filenames, as rules without I/O."""
