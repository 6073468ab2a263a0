"""Pure state: no I/O, clock, threads, randomness or logging."""
