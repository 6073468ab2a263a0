"""What SIGTERM and Ctrl-C do: ask to stop, and see to it that the process ends.

The interpreter runs a signal's handler on the main thread, between two of its own steps. A client
that waits for a broker that hangs takes none for as long. So the deadline, and the second signal,
are a thread's: it is told of each signal at once, through a pipe (`signal.set_wakeup_fd`).
"""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable

SIGNALS = (signal.SIGTERM, signal.SIGINT)


def end_in_time(stop: Callable[[], object], *, seconds: float) -> None:
    """Call `stop` at the first signal; end the process at a second one, or so long after."""
    for number in SIGNALS:
        signal.signal(number, lambda *_: stop())
    told, tell = os.pipe()
    os.set_blocking(tell, False)
    signal.set_wakeup_fd(tell, warn_on_full_buffer=False)
    threading.Thread(
        target=_end, args=(told, seconds), name="processor-signals", daemon=True
    ).start()


def _end(told: int, seconds: float) -> None:
    asked = False
    while number := os.read(told, 1):
        if number[0] not in SIGNALS:
            continue
        if asked:
            os._exit(1)
        asked = True
        late = threading.Timer(seconds, os._exit, (1,))
        late.daemon = True
        late.start()
