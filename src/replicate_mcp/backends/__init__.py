"""Where semaphores, permits and the journal live: what keeps the promise."""
