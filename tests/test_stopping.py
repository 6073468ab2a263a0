"""A process that is asked to end does, whatever its main thread waits in."""

from __future__ import annotations

import signal
import subprocess
import sys

# The main thread is in a call that takes no signal, as a client's commit to a broker that hangs.
HANGS = """
import ctypes, sys
from processor.stopping import end_in_time
end_in_time(lambda: print("stop", flush=True), seconds=float(sys.argv[1]))
print("ready", flush=True)
libc, mutex = ctypes.CDLL(None), ctypes.create_string_buffer(64)
libc.pthread_mutex_lock(mutex)
libc.pthread_mutex_lock(mutex)  # Waits for itself, and no signal ends that.
"""
WAITS = """
import sys, time
from processor.stopping import end_in_time
asked = []
end_in_time(lambda: asked.append(1), seconds=60)
print("ready", flush=True)
while not asked:
    time.sleep(0.01)
"""


def started(source: str, *arguments: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", source, *arguments], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    return process


def test_process_that_hears_the_signal_ends_by_itself():
    process = started(WAITS)

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 0


def test_process_that_hangs_ends_at_its_deadline():
    process = started(HANGS, "0.2")

    process.send_signal(signal.SIGTERM)

    assert process.wait(20) == 1


def test_process_that_hangs_ends_at_a_second_signal():
    process = started(HANGS, "600")

    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGINT)

    assert process.wait(20) == 1
