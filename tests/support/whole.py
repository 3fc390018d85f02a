"""What the tests of whole pools share."""

import os

import pytest

QUICK = ["attr-timeout=0.05"]  # sessions are closed after a second


def listed(pool):
    return {entry["identifier"] for entry in pool.request("GET", "listSessions").json()["sessions"]}


def allocate(pool, name):
    assert pool.request("GET", "files", session=name).status == 200


def opened(mount):
    return mount.status()["sessions"]["open"]


def refused(number, action, *arguments, **how):
    with pytest.raises(OSError) as trouble:
        action(*arguments, **how)
    assert trouble.value.errno == number, trouble.value


def resident(pid):
    with open(f"/proc/{pid}/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * os.sysconf("SC_PAGESIZE")
