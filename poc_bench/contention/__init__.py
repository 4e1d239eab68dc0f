"""``poc-bench contention``: what concurrency buys, measured, and the controls that check the instrument."""
