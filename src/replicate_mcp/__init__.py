"""Prompts in, image URLs out, through Replicate, under shared global semaphores."""
