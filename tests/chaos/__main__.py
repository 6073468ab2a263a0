"""`python -m tests.chaos`: chaos on real brokers. The last line on stdout is one JSON object."""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import Counter
from dataclasses import replace

from tests.chaos.run import FULL, PROTOCOLS, SHORT, chaos, say


def main() -> int:
    parser = argparse.ArgumentParser()
    parser.add_argument("--short", action="store_true", default=os.environ.get("SHORT") == "1")
    parser.add_argument("--seed", type=int, default=int(time.time()) % 1_000_000)
    parser.add_argument("--jobs", type=int, help="for each protocol")
    parser.add_argument("--protocols", help=f"of {', '.join(PROTOCOLS)}; default: all, short: one")
    options = parser.parse_args()
    plan = SHORT if options.short else FULL
    if options.jobs:
        plan = replace(plan, jobs=options.jobs)
    names = list(PROTOCOLS)
    chosen = options.protocols.split(",") if options.protocols else names
    if not set(chosen) <= set(names):
        parser.error(f"--protocols {options.protocols}: give some of {', '.join(names)}")
    if options.short and not options.protocols:
        chosen = [names[options.seed % len(names)]]
    began = time.monotonic()
    runs = []
    for told in chaos(chosen, options.seed, plan):
        runs.append(told)
        say(f"{told.protocol}: {told.verdict if not told.good else 'good'} {told.notes}")
        print(json.dumps(told_as_json(told)), flush=True)
    faults: Counter[str] = Counter()
    for told in runs:
        faults += told.faults
    total = {
        "submitted": sum(told.submitted for told in runs),
        "lost": sum(len(told.verdict.lost) for told in runs),
        "order_violations": sum(len(told.verdict.order_violations) for told in runs),
        "effects_twice": sum(len(told.verdict.effects_twice) for told in runs),
        "dead": sum(told.verdict.dead for told in runs),
        "false_dead": sum(len(told.verdict.false_dead) for told in runs),
        "faults": dict(faults),
        "lag_zero_seconds": [told.lag_zero_seconds for told in runs],
        "protocols": chosen,
        "seed": options.seed,
        "good": all(told.good for told in runs),
        "seconds": round(time.monotonic() - began, 1),
    }
    print(json.dumps(total))
    return 0 if total["good"] else 1


def told_as_json(told: object) -> dict[str, object]:
    from tests.chaos.run import Told

    assert isinstance(told, Told)
    return {
        "protocol": told.protocol,
        "submitted": told.submitted,
        "lost": len(told.verdict.lost),
        "order_violations": told.verdict.order_violations[:5],
        "effects_twice": told.verdict.effects_twice[:5],
        "false_dead": told.verdict.false_dead[:5],
        "alive": told.verdict.alive[:5],
        "unknown": told.verdict.unknown[:5],
        "dead": told.verdict.dead,
        "faults": dict(told.faults),
        "lag_zero_seconds": told.lag_zero_seconds,
        "seconds": round(told.seconds, 1),
        "notes": told.notes,
    }


if __name__ == "__main__":
    sys.exit(main())
