"""Waiting for something to become true, never for time to pass."""

import time


def wait_for(condition, deadline=10.0, what=None, every=0.02):
    """Calls condition until it gives something true, and returns that.

    An OSError counts as "not yet"; the last one is shown when the deadline passes."""
    end = time.monotonic() + deadline
    trouble = None
    while True:
        try:
            value = condition()
            if value:
                return value
            trouble = None
        except OSError as error:
            trouble = error
        if time.monotonic() >= end:
            name = what or getattr(condition, "__name__", "the condition")
            raise AssertionError(f"{name}: not true after {deadline} s" + (f" ({trouble})" if trouble else ""))
        time.sleep(every)
