"""One file shared by every process of a user on a machine, or one process's memory."""
