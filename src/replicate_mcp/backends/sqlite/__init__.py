"""The SQLite backend: one file shared by a user's processes, or one process's memory."""
