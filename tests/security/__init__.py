"""What must not get out, what must not get in, and what the scheduler must not be able to do."""
