"""Big files and many files, and how much memory the daemon takes for them."""

import hashlib
import os

import pytest

from support import process

pytestmark = [pytest.mark.session, pytest.mark.limit(240)]

MEMORY = 16 * 1024 * 1024


def check_memory(mount):
    """Below 16 MB throughout. A sanitizer build has its own shadow and does not count."""
    if not process.sanitized():
        peak = mount.peak_memory()
        assert peak < MEMORY, f"the daemon took {peak / 1048576:.1f} MB"


@pytest.fixture
def big(tmp_path):
    """100 MB that no compression or zero-detection helps with, and their checksum."""
    path = tmp_path / "big"
    digest = hashlib.sha256()
    with open(path, "wb") as file:
        for _ in range(100):
            block = os.urandom(1_000_000)
            digest.update(block)
            file.write(block)
    return path, digest.hexdigest()


def sha256(path):
    return process.run(["sha256sum", path], timeout=120).stdout.split()[0]


def test_100_mb_in_and_out(mounts, big, session):
    path, digest = big
    one = mounts(session=session)
    process.run(["cp", path, one / "big"], timeout=120)
    one.sync()
    assert sha256(one / "big") == digest
    check_memory(one)
    assert one.pool.run(session, "import hashlib; "
                        "hashlib.file_digest(open('/mnt/data/big', 'rb'), 'sha256').hexdigest()") == digest
    assert one.unmount() == 0
    two = mounts(session=session)
    assert sha256(two / "big") == digest
    check_memory(two)
    process.run(["cp", two / "big", path.with_name("out")], timeout=120)
    assert sha256(path.with_name("out")) == digest
    check_memory(two)


def test_changing_a_few_bytes_of_a_big_file(mounts, big, session):
    path, _ = big
    mount = mounts(session=session)
    process.run(["cp", path, mount / "big"], timeout=120)
    for target in (path, mount / "big"):
        with open(target, "r+b") as file:
            file.seek(77_777_777)
            file.write(b"patched")
    mount.sync()
    assert mount.pool.run(session, "f = open('/mnt/data/big', 'rb'); f.seek(77_777_777); f.read(7).decode()") == "patched"
    assert sha256(mount / "big") == sha256(path)
    check_memory(mount)


def test_reading_the_end_of_a_big_file(mounts, session, pool):
    pool.run(session, "import os; os.truncate(os.open('/mnt/data/big', os.O_CREAT | os.O_RDWR), 90_000_000); "
             "f = open('/mnt/data/big', 'r+b'); f.seek(-4, 2); f.write(b'tail'); f.close()")
    mount = mounts(session=session)
    assert process.run(["tail", "-c", "4", mount / "big"]).stdout == "tail"
    with open(mount / "big", "rb") as file:
        for at in (89_999_999, 5, 45_000_000, 89_999_996):
            file.seek(at)
            assert len(file.read(4)) == min(4, 90_000_000 - at)
    check_memory(mount)


def test_1000_files_in_and_out(mounts, session, tmp_path):
    source = tmp_path / "many"
    source.mkdir()
    for n in range(1000):
        (source / f"{n:04}").write_bytes(os.urandom(4096))
    one = mounts(session=session)
    process.run(["cp", "-a", source, one / "many"], timeout=200)
    one.sync()
    check_memory(one)
    assert one.pool.run(session, "import os; len(os.listdir('/mnt/data/many'))") == 1000
    assert one.unmount(deadline=60) == 0
    two = mounts(session=session)
    process.run(["diff", "-r", source, two / "many"], timeout=200)
    check_memory(two)
    process.run(["rm", "-r", two / "many"], timeout=200)
    two.sync()
    assert two.pool.names(session) == set()
    check_memory(two)


def test_many_readers_of_one_cold_file(mounts, session, pool):
    data = os.urandom(8_000_000)
    pool.write(session, "shared", data)
    mount = mounts(session=session)
    wanted = hashlib.sha256(data).hexdigest()
    out = process.run(f"for i in $(seq 8); do sha256sum < {mount}/shared & done; wait", timeout=100).stdout
    assert [line.split()[0] for line in out.splitlines()] == [wanted] * 8
