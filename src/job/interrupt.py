"""Runs in the session by the helper's "call", in the kernel that is there for the helper: interrupts the
session's own kernel, which works on code that nobody waits for any more. Kernels are children of one
parent, started by one command; when it is not clear which of them that is, none is touched."""
import os
import signal


def main(a):
    """Whether it was interrupted."""
    me = os.getpid()
    mine = describe(me)
    others = [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
              if pid != me and describe(pid) == mine]
    if mine is None or len(others) != 1:
        return False
    os.kill(others[0], signal.SIGINT)
    return True


def describe(pid):
    """The parent and the command, without what may be each kernel's own; None: it is gone."""
    try:
        with open("/proc/%d/stat" % pid, "rb") as file:
            parent = file.read().rpartition(b")")[2].split()[1]
        with open("/proc/%d/cmdline" % pid, "rb") as file:
            return parent, file.read().split(b"\0")[:3]
    except OSError:
        return None
