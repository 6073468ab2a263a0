from __future__ import annotations

import signal


def pytest_configure() -> None:
    """Take SIGINT as usual where the tests were started in the background.

    A shell without job control starts background commands with SIGINT ignored, and the processes
    that tests start would inherit that: Ctrl-C could not be tried.
    """
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)
