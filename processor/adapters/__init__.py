"""The outside world, one third-party package each."""
