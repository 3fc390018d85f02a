"""What all sessions of a whole pool share: the cache's size, descriptors, memory; and for how long they are kept."""

import errno
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from support import process
from support import proxy as fault
from support.wait import wait_for
from support.whole import QUICK, allocate, listed, opened, refused, resident

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

MEBI = 1 << 20


def few_descriptors(mount, count=300):
    """For a mount that is not started yet."""
    command = mount.command()
    mount.command = lambda: ["prlimit", f"--nofile={count}:{count}", *command]
    return mount


def descriptors(mount):
    return len(os.listdir(f"/proc/{mount.pid}/fd"))


def test_the_cache_has_one_size(whole, tcp_pool, name):
    names = [f"{name}-{i}" for i in range(4)]
    for one in names:
        tcp_pool.write(one, "big", one.encode() * (2 * MEBI // len(one)))
    mount = whole(options=["cache-size=5M"])
    for one in names:
        assert (mount / one / "big").read_bytes().startswith(one.encode())
        assert mount.status()["cache"]["bytes"] <= 5 * MEBI
    assert mount.status()["cache"]["files"] == 2
    before = mount.status()["counters"]["downloads"]
    assert (mount / names[3] / "big").read_bytes() and (mount / names[2] / "big").read_bytes()
    assert mount.status()["counters"]["downloads"] == before, "the last ones are at hand"
    assert (mount / names[0] / "big").read_bytes()
    assert mount.status()["counters"]["downloads"] == before + 1


def test_what_is_not_sent_yet_stays_whosesoever_it_is(whole, proxy, tcp_pool, name):
    mount = whole(proxy=proxy, options=["cache-size=4M", "max-retries=0"])
    others = [name + "-2", name + "-3"]
    for one in (name, *others):
        os.mkdir(mount / one)
    rule = proxy.rule("POST files", fault.answer(503))
    for one in (name, others[0]):
        (mount / one / "a").write_bytes(b"x" * (3 * MEBI // 2))
    with open(mount / others[1] / "a", "wb", buffering=0) as file:
        assert file.write(b"y" * MEBI) == MEBI
        refused(errno.ENOSPC, file.write, b"z")
    assert len(mount.status()["pending"]) >= 2
    proxy.drop(rule)
    mount.sync()
    (mount / others[1] / "b").write_bytes(b"x" * 2 * MEBI)
    mount.sync()
    assert tcp_pool.read(name, "a") == b"x" * (3 * MEBI // 2) and len(tcp_pool.read(others[1], "b")) == 2 * MEBI


def test_few_descriptors_are_enough_for_many_sessions(whole, own_pool):
    pool = own_pool(tcp=True)
    names = [f"session-{i:03}" for i in range(150)]
    for one in names:
        pool.write(one, "a.txt", one.encode())
    mount = few_descriptors(whole(pool=pool, start=False)).start()
    with ThreadPoolExecutor(8) as threads:
        assert list(threads.map(lambda one: (mount / one / "a.txt").read_text(), names)) == names
    assert opened(mount) <= (300 - 128) // 4 and descriptors(mount) < 300
    for one in names:
        assert (mount / one / ".acafs/status").read_text()
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda one: (mount / one / "b.txt").write_text(one), names))
    mount.sync()
    assert [pool.read(one, "b.txt") for one in names] == [one.encode() for one in names]
    assert "Too many open files" not in mount.said()


def test_open_files_in_many_sessions_run_into_the_limit_alone(whole, own_pool):
    """Whoever has no descriptors left is told so; nothing else breaks."""
    pool = own_pool(tcp=True)
    mount = few_descriptors(whole(pool=pool, start=False)).start()
    handles = []
    try:
        with pytest.raises(OSError) as trouble:
            for i in range(100):
                os.mkdir(mount / f"session-{i:03}")
                handles.append(os.open(mount / f"session-{i:03}/a", os.O_CREAT | os.O_WRONLY))
        assert trouble.value.errno in (errno.EMFILE, errno.ENOSPC) and len(handles) > 20
        os.write(handles[0], b"still")
    finally:
        for handle in handles:
            os.close(handle)
    wait_for(lambda: (mount / "session-099").mkdir() is None, 20)
    mount.sync()
    assert pool.read("session-000", "a") == b"still"


def test_pending_in_more_sessions_than_can_be_open(whole, own_pool, tmp_path):
    """Content that there is no descriptor for is not given up."""
    pool = own_pool(tcp=True)
    names = [f"session-{i:03}" for i in range(60)]
    proxy = fault.Proxy(("127.0.0.1", pool.port))
    try:
        mount = whole(pool=pool, proxy=proxy, cache=tmp_path / "cache")
        for one in names:
            os.mkdir(mount / one)
        proxy.rule("POST files", fault.answer(503))
        for one in names:
            for i in range(4):
                (mount / one / f"{i}.txt").write_text(one)
        mount.kill()
        proxy.clear()
        again = few_descriptors(whole(pool=pool, proxy=proxy, cache=tmp_path / "cache", start=False)).start()
        for one in names:
            wait_for(lambda: pool.names(one) == {f"{i}.txt" for i in range(4)}, 60, f"{one} is sent")
        assert pool.read(names[-1], "3.txt") == names[-1].encode()
        assert "can't be read" not in again.said()
        again.finish()
    finally:
        proxy.close()


# --- closed, and kept


def cooldown_passes(pool):
    """Until a session that nobody uses has expired."""
    other = f"control-{uuid.uuid4().hex[:8]}"
    allocate(pool, other)
    wait_for(lambda: other not in listed(pool), 40, "a session expires", every=0.1)


@pytest.fixture(params=["remote", "local"])
def kept(request, whole, own_pool):
    """A mount whose sessions are kept from expiring, of a pool where they soon do."""
    pool = own_pool(tcp=request.param == "remote", options=["--cooldown", "6"])
    return whole(pool=pool, options=QUICK + (["keepalive"] if request.param == "remote" else []))


def test_sessions_that_are_kept_need_not_be_open(kept, name):
    pool = kept.pool
    os.mkdir(kept / name)
    (kept / name / "a.txt").write_text("kept")
    kept.sync()
    (kept / name / ".acafs/status").read_text()
    wait_for(lambda: opened(kept) == 1, 10)
    os.unlink(kept / name / "a.txt")
    pool.write(name, "b.txt", b"kept")
    wait_for(lambda: opened(kept) == 0, 30, "closing")
    for _ in range(2):
        cooldown_passes(pool)
    assert opened(kept) == 0
    assert pool.read(name, "b.txt") == b"kept", "and it is no new one"
    assert (kept / name / "b.txt").read_text() == "kept"


def test_one_that_was_deleted_elsewhere_is_let_go(kept, name):
    pool = kept.pool
    os.mkdir(kept / name)
    wait_for(lambda: opened(kept) == 0, 30, "closing")
    assert pool.request("DELETE", "session", session=name).status == 204
    wait_for(lambda: "not there any more" in kept.said(), 30)
    assert name not in os.listdir(kept) and name not in listed(pool)
    cooldown_passes(pool)
    assert name not in listed(pool), "keeping it makes none"


def test_deleted_here_is_deleted(kept, name):
    pool = kept.pool
    for one in (name, name + "-2"):
        os.mkdir(kept / one)
    wait_for(lambda: opened(kept) == 0, 30, "closing")
    os.rmdir(kept / name)
    os.rmdir(kept / (name + "-2"))
    os.mkdir(kept / (name + "-2"))
    cooldown_passes(pool)
    assert name not in listed(pool) and name + "-2" in listed(pool)


def test_those_only_looked_for_are_not_kept(whole, own_pool, name):
    pool = own_pool(tcp=True, options=["--cooldown", "4"])
    mount = whole(pool=pool, options=[*QUICK, "keepalive"])
    allocate(pool, name)
    wait_for(lambda: name in os.listdir(mount) and os.stat(mount / name), 3)
    cooldown_passes(pool)
    wait_for(lambda: name not in listed(pool), 10)
    wait_for(lambda: name not in os.listdir(mount), 10)


def test_what_restore_may_put_back_stays(whole, tcp_pool, name):
    """Of sessions that are to be filled again what is at hand is not let go."""
    other = name + "-other"
    tcp_pool.write(name, "a.txt", b"one")
    mount = whole(options=["attr-timeout=0.001", "restore"])
    assert (mount / name / "a.txt").read_text() == "one"
    os.mkdir(mount / other)
    wait_for(lambda: opened(mount) == 1, 30, "closing the other")
    assert tcp_pool.request("DELETE", "session", session=name).status == 204
    allocate(tcp_pool, name)
    wait_for(lambda: os.listdir(mount / name) and tcp_pool.read(name, "a.txt") == b"one", 20)


@pytest.mark.limit(180)
@pytest.mark.parametrize("where", ["remote", "local"])
def test_many_sessions_cost_little(whole, own_pool, where):
    """Known ones, and those that were opened and are idle again; kept from expiring or not."""
    count = 1000
    pool = own_pool(tcp=where == "remote", options=["--max-sessions", "1100"])
    mount = whole(pool=pool, options=QUICK)
    empty = resident(mount.pid)
    for i in range(count):
        allocate(pool, f"session-{i:04}")
    wait_for(lambda: len(os.listdir(mount)) == count, 10)
    process.run(["ls", "-l", mount])
    known = resident(mount.pid)
    for i in range(0, count, 20):
        (mount / f"session-{i:04}/a.txt").write_text("x")
        os.unlink(mount / f"session-{i:04}/a.txt")
    wait_for(lambda: opened(mount) == 0, 60, "closing", every=0.2)
    idle = resident(mount.pid)
    if not process.sanitized():
        assert (known - empty) / count < 2048, f"{empty} {known}"
        assert (idle - empty) / count < 2048, f"{empty} {idle}"
