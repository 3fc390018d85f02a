"""Files that the cache has no room for are read all the same, in parts that give way to others."""

import errno
import hashlib
import os
import random
import shutil
import sys
import threading

import pytest

from support import proxy as fault
from support.process import run
from support.wait import wait_for
from test_mount_reads import no_ranges

pytestmark = [pytest.mark.session, pytest.mark.limit(180)]

CACHE, SIZE = 4 << 20, 20 << 20
SLACK = 4 << 20  # what is being asked for at this moment has its place all the same


@pytest.fixture(scope="module")
def content():
    return random.Random(4).randbytes(SIZE)


@pytest.fixture
def small(mounts, proxy, session, tcp_pool, content):
    """A mount with little room, of a session with a large file."""
    tcp_pool.write(session, "big", content)
    return mounts(proxy=proxy, session=session, options=[f"cache-size={CACHE}", "attr-timeout=60"])


def content_fds(pid):
    """The daemon's descriptors of content, which has no name while it is clean."""
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            path = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        if "/content/" in path:
            yield f"/proc/{pid}/fd/{fd}"


def on_disk(mount):
    """Bytes that its content takes there."""
    return sum({st.st_ino: st.st_blocks * 512 for st in map(os.stat, content_fds(mount.pid))}.values())


def in_bounds(mount):
    assert 0 < on_disk(mount) <= CACHE + SLACK
    assert mount.status()["cache"]["bytes"] <= CACHE + SLACK


def test_from_its_beginning_to_its_end_twice(small, content):
    for _ in range(2):
        digest = hashlib.sha256()
        with open(small / "big", "rb", buffering=0) as file:
            while block := file.read(1 << 17):
                digest.update(block)
                if file.tell() % (2 << 20) == 0:
                    in_bounds(small)
        assert digest.digest() == hashlib.sha256(content).digest()
        with open(small / "big", "rb") as file:
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert small.status()["counters"]["downloads"] < 100


def test_here_and_there(small, content):
    dice = random.Random(5)
    with open(small / "big", "rb", buffering=0) as file:
        for turn in range(300):
            if turn % 10 == 0:
                os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
            at, size = dice.randrange(SIZE), dice.choice([1, 100, 4096, 70_000, 1 << 20])
            got = os.pread(file.fileno(), size, at)
            assert got == content[at:at + len(got)] and len(got) == min(size, SIZE - at), (turn, at, size)
            if turn % 25 == 0:
                in_bounds(small)


def test_two_readers_at_once(small, content):
    wrong = []

    def read(start):
        with open(small / "big", "rb", buffering=0) as file:
            for at in range(start, start + SIZE // 2, 1 << 16):
                if os.pread(file.fileno(), 1 << 16, at) != content[at:at + (1 << 16)]:
                    wrong.append(at)
    readers = [threading.Thread(target=read, args=(start,)) for start in (0, SIZE // 2)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong
    in_bounds(small)


def test_many_readers_here_and_there(small, content):
    wrong = []

    def read(seed):
        dice = random.Random(seed)
        with open(small / "big", "rb", buffering=0) as file:
            for _ in range(40):
                at = dice.randrange(SIZE - (1 << 16))
                if os.pread(file.fileno(), 1 << 16, at) != content[at:at + (1 << 16)]:
                    wrong.append(at)
    readers = [threading.Thread(target=read, args=(seed,)) for seed in range(8)]
    for reader in readers:
        reader.start()
    for reader in readers:
        reader.join()
    assert not wrong
    in_bounds(small)


def test_two_large_files_at_once(small, tcp_pool, session, content):
    other = content[::-1]
    tcp_pool.write(session, "other", other)
    small.control("refresh")
    with open(small / "big", "rb", buffering=0) as one, open(small / "other", "rb", buffering=0) as two:
        for at in range(0, SIZE, 1 << 18):
            assert os.pread(one.fileno(), 1 << 18, at) == content[at:at + (1 << 18)]
            assert os.pread(two.fileno(), 1 << 18, at) == other[at:at + (1 << 18)]
            if at % (2 << 20) == 0:
                in_bounds(small)


def test_mapped(small, tmp_path, content):
    """By a process of its own: an error would kill it."""
    (tmp_path / "content").write_bytes(content)
    run([sys.executable, "-c", """
import hashlib, mmap, random, sys
with open(sys.argv[1], "rb") as file, mmap.mmap(file.fileno(), 0, prot=mmap.PROT_READ) as view:
    content = open(sys.argv[2], "rb").read()
    dice = random.Random(6)
    for _ in range(100):
        at = dice.randrange(len(content) - 5000)
        assert view[at:at + 5000] == content[at:at + 5000]
    assert view[:] == content
""", small / "big", tmp_path / "content"])


def test_it_can_be_copied_and_compared(small, content, tmp_path):
    shutil.copyfile(small / "big", tmp_path / "copy")
    assert (tmp_path / "copy").read_bytes() == content


def test_what_is_not_sent_keeps_its_place(small, proxy, tcp_pool, session, content):
    """Half of the room is taken by what only this machine has."""
    rule = proxy.rule("POST files", fault.answer(503))
    own = os.urandom(CACHE // 2)
    (small / "own").write_bytes(own)
    assert (small / "big").read_bytes() == content
    in_bounds(small)
    with pytest.raises(OSError) as error:
        (small / "more").write_bytes(bytes(CACHE))
    assert error.value.errno == errno.ENOSPC
    assert (small / "own").read_bytes() == own
    proxy.drop(rule)
    os.unlink(small / "more")
    small.sync()
    assert tcp_pool.read(session, "own") == own


def test_writers_make_readers_give_way(small, tcp_pool, session, content):
    with open(small / "big", "rb", buffering=0) as file:
        assert file.read(CACHE) and on_disk(small)
        (small / "own").write_bytes(content[:CACHE // 4 * 3])
        at = file.tell()
        assert file.read(1 << 16) == content[at:at + (1 << 16)]
    small.sync()
    assert tcp_pool.read(session, "own") == content[:CACHE // 4 * 3]


def test_it_can_not_be_changed_in_place(small, content):
    with open(small / "big", "r+b", buffering=0) as file:
        assert file.read(100) == content[:100]
        with pytest.raises(OSError) as error:
            file.write(b"x")
        assert error.value.errno == errno.ENOSPC
        assert os.pread(file.fileno(), 100, SIZE - 100) == content[-100:]
    (small / "big").write_bytes(b"short")
    assert (small / "big").read_bytes() == b"short"
    small.sync()


def test_it_can_be_deleted_while_it_is_read(small, tcp_pool, session, content):
    with open(small / "big", "rb", buffering=0) as file:
        assert file.read(100) == content[:100]
        os.unlink(small / "big")
        small.sync()
        assert tcp_pool.names(session) == set()


def test_it_changes_while_it_is_read(small, tcp_pool, session, content):
    with open(small / "big", "rb", buffering=0) as file:
        assert file.read(1 << 20) == content[:1 << 20]
        tcp_pool.write(session, "big", content[::-1])
        small.control("refresh")
        wait_for(lambda: os.pread(file.fileno(), 1000, SIZE - 1000) == content[:1000][::-1], 20)
    assert (small / "big").read_bytes() == content[::-1]


def test_a_server_without_ranges_can_not_serve_it(mounts, proxy, tcp_pool, session, content):
    """Each part would take all before it."""
    proxy.rule(r"GET files/\{name\}/content", no_ranges)
    tcp_pool.write(session, "big", content)
    mount = mounts(proxy=proxy, session=session, options=[f"cache-size={CACHE}"])
    with pytest.raises(OSError) as error:
        (mount / "big").read_bytes()
    assert error.value.errno == errno.ENOSPC
    assert mount.status()["counters"]["downloads"] < 50
