"""What listings are asked of the server, counted at a proxy, and how large directories do."""

import os
import time
from pathlib import Path

import pytest

from support import process
from support import proxy as faults
from support.wait import wait_for

pytestmark = pytest.mark.session

LIST = "GET files"
MAKE = ("import os\nos.makedirs('/mnt/data/{0}', exist_ok=True)\n"
        "for n in range({1}):\n with open(f'/mnt/data/{0}/f{{n:06}}', 'w') as file:\n  x = file.write('x' * (n % 100))\n")


def no_stats(proxy):
    return proxy.count("GET files/{name}") == 0


def test_ls_of_1000_files_is_one_request(mounts, proxy, tcp_pool, session):
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=60"])
    tcp_pool.run(session, MAKE.format("d", 1000))
    mount.control("refresh")
    asked = proxy.count(LIST)
    lines = process.run(["ls", "-l", mount / "d"]).stdout.splitlines()
    assert len(lines) == 1001 and lines[100].split()[4] == "99"
    assert proxy.count(LIST) == asked and no_stats(proxy), "nothing but the listing that found them"


def test_one_listing_fills_the_tree(mounts, proxy, tcp_pool, session):
    for n in range(5):
        tcp_pool.run(session, MAKE.format(f"a/b{n}/c", 10))
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=60"])
    asked = proxy.count(LIST)
    assert process.run(["find", mount / "a", "-type", "f"]).stdout.count("\n") == 50
    assert proxy.count(LIST) == asked and no_stats(proxy), "the one at mounting told all"


def test_what_is_missing_is_remembered(mounts, proxy, session):
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=60"])
    asked = proxy.count(LIST)
    for _ in range(20):
        for name in ("no", "not-here", "neither"):
            assert not (mount / name).exists()
    assert proxy.count(LIST) == asked and no_stats(proxy)


def test_an_old_listing_answers_while_a_new_one_runs(mounts, proxy, tcp_pool, session):
    tcp_pool.write(session, "known", b"12345")
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=3", "timeout-read=20"])
    assert (mount / "known").stat().st_size == 5
    asked = proxy.count(LIST)
    proxy.rule(LIST, faults.freeze())
    end = time.monotonic() + 3.2
    wait_for(lambda: time.monotonic() > end)  # the timeout of attributes
    assert (mount / "known").stat().st_size == 5
    wait_for(lambda: proxy.count(LIST) == asked + 1, what="the new listing asked for")


def test_nothing_is_missing_by_an_old_listing(mounts, proxy, tcp_pool, session):
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=1"])
    assert not (mount / "later").exists()
    tcp_pool.write(session, "later", b"here")
    end = time.monotonic() + 1.1
    wait_for(lambda: time.monotonic() > end)  # longer than it may be thought missing
    assert (mount / "later").read_bytes() == b"here", "asked anew, not told from before"


def test_own_changes_are_seen_at_once(mounts, proxy, session):
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=60"])
    (mount / "a").write_text("one")
    assert not (mount / "b").exists()
    os.rename(mount / "a", mount / "b")
    assert not (mount / "a").exists() and (mount / "b").read_text() == "one"
    os.unlink(mount / "b")
    assert not (mount / "b").exists() and os.listdir(mount) == []


def test_changes_of_a_job_are_seen_at_once(mounts, proxy, session):
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=60"])
    (mount / "job.py").write_text("open('made', 'w').write('by the job')\n")
    assert not (mount / "made").exists()
    mount.control("run job.py")
    assert (mount / "made").read_text() == "by the job"


def resident(pid):
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise AssertionError("no VmRSS")


@pytest.mark.limit(120)
def test_a_large_directory(mounts, tcp_pool, proxy, session):
    """10,000 here; 100,000 do as well, in proportion."""
    count = 10_000
    mount = mounts(session=session, proxy=proxy, options=["attr-timeout=60"])
    before = resident(mount.pid)
    tcp_pool.run(session, MAKE.format("d", count))
    mount.control("refresh")
    names = os.listdir(mount / "d")
    assert len(names) == count
    if not process.sanitized():
        wait_for(lambda: resident(mount.pid) - before < count * (256 + 32) + (1 << 20),
                 what="256 bytes for each inode and 32 for its name")
    asked = proxy.count(LIST)
    assert all(os.stat(mount / "d" / name).st_size == int(name[1:]) % 100 for name in names[::20])
    assert proxy.count(LIST) == asked
    for name in names[:50]:
        os.unlink(mount / "d" / name)
    assert len(os.listdir(mount / "d")) == count - 50
    mount.sync()
    assert tcp_pool.run(session, "len(os.listdir('/mnt/data/d'))") == count - 50
