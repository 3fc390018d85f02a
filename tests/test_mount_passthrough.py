"""Files that the kernel reads from the cache by itself, where it can: nobody may see a difference."""

import hashlib
import mmap
import os

import pytest

from support import process
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

MAKE = ("import hashlib, random\nsource = random.Random(13)\ndigest = hashlib.sha256()\n"
        "with open('/mnt/data/big', 'wb') as file:\n for _ in range({0}):\n  block = source.randbytes(1_000_000)\n"
        "  digest.update(block)\n  n = file.write(block)\n")


def passes_through():
    """Whether this build and this machine can do it: Debian 13's libfuse, Linux 6.9, root."""
    with open(process.ACAFS, "rb") as program:
        return b"fuse_passthrough_open" in program.read() and os.geteuid() == 0


def make(pool, session, megabytes):
    pool.run(session, MAKE.format(megabytes))
    return pool.run(session, "digest.hexdigest()")


def checksum(path):
    digest = hashlib.sha256()
    with open(path, "rb", buffering=0) as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def cpu_ms(pid):
    """CPU time of all threads, in ms (schedstat counts ns; stat only ticks)."""
    tasks = os.listdir(f"/proc/{pid}/task")
    return sum(int(open(f"/proc/{pid}/task/{task}/schedstat").read().split()[0]) for task in tasks) / 1e6


def test_the_daemon_has_nothing_to_do(mounts, session, pool):
    if not passes_through():
        assert not os.environ.get("ACAFS_TEST_PASSTHROUGH"), "built without passthrough"
        pytest.skip("no passthrough here")
    wanted = make(pool, session, 200)
    mount = mounts(session=session)
    assert checksum(mount / "big") == wanted
    with open(mount / "big", "rb") as file:
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)  # what was read through the daemon
    before = cpu_ms(mount.pid)
    assert checksum(mount / "big") == wanted
    spent = cpu_ms(mount.pid) - before
    assert spent < 20, f"the daemon took {spent:.0f} ms of CPU time for 200 MB"


@pytest.fixture
def reader(mounts, session, pool):
    """A mount with a complete file, open for reading."""
    make(pool, session, 1)
    mount = mounts(session=session)
    checksum(mount / "big")
    file = os.open(mount / "big", os.O_RDONLY)
    yield mount, file
    os.close(file)


def test_a_writer_beside_a_reader(reader, session, pool):
    mount, file = reader
    assert os.pread(file, 4, 0) == pool.read(session, "big")[:4]
    with open(mount / "big", "r+b", buffering=0) as writer:
        writer.write(b"new!")
        assert os.pread(file, 4, 0) == b"new!"
        writer.seek(0)
        assert writer.read(4) == b"new!"
    mount.sync()
    assert pool.read(session, "big")[:4] == b"new!"


@pytest.mark.parametrize("how", ["open", "ftruncate", "truncate"])
def test_the_file_is_emptied_under_a_reader(reader, session, pool, how):
    mount, file = reader
    if how == "truncate":
        os.truncate(mount / "big", 0)
        (mount / "big").write_bytes(b"after")
    else:
        with open(mount / "big", "wb" if how == "open" else "r+b", buffering=0) as writer:
            writer.truncate(0)
            writer.write(b"after")
    assert os.pread(file, 100, 0) == b"after"
    assert (mount / "big").read_bytes() == b"after"
    mount.sync()
    assert pool.read(session, "big") == b"after"


def test_a_mapping_is_written_beside_a_reader(reader, session, pool):
    mount, file = reader
    assert os.pread(file, 4, 0)
    with open(mount / "big", "r+b") as writer:
        try:
            mapping = mmap.mmap(writer.fileno(), 0)
        except OSError:
            pytest.skip("no shared mapping beside a reader here")
        mapping[:6] = b"mapped"
        mapping.flush()
        mapping.close()
    assert os.pread(file, 6, 0) == b"mapped"
    wait_for(lambda: pool.read(session, "big")[:6] == b"mapped", what="the mapped bytes in the session")


def test_it_is_replaced_under_a_reader(reader, session, pool):
    mount, file = reader
    old = os.pread(file, 16, 0)
    (mount / "new").write_bytes(b"replaced")
    os.replace(mount / "new", mount / "big")
    assert os.pread(file, 16, 0) == old
    assert (mount / "big").read_bytes() == b"replaced"


def test_another_changes_it_between_two_readers(mounts, session, pool):
    make(pool, session, 1)
    mount = mounts(session=session, options=["attr-timeout=0"])
    first = checksum(mount / "big")
    assert checksum(mount / "big") == first
    pool.write(session, "big", b"x" * 500_000)
    wait_for(lambda: (mount / "big").read_bytes() == b"x" * 500_000, what="the new content")
