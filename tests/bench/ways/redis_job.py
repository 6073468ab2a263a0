"""What the ways on Redis share."""

import os

REDIS = os.environ["BENCH_REDIS"]
JOBS = int(os.environ["BENCH_JOBS"])


def arguments(number: int) -> list:
    """One job's."""
    return [f"job-{number}", "copy", f"idem-{number}", number, "x" * 200]
