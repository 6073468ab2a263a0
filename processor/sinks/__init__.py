"""Where effects go, once: the ledger and the idempotent writers."""
