"""Random reads, writes, truncates and mapped writes of one file, as fsx does, with crashes and remounts between.

ACAFS_SEED repeats a failure, ACAFS_FSX_STEPS widens it."""

import mmap
import os
import random

import pytest

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

SEEDS = [int(os.environ["ACAFS_SEED"])] if "ACAFS_SEED" in os.environ else [1, 2]
STEPS = int(os.environ.get("ACAFS_FSX_STEPS", "300"))
LARGEST = 300_000


class Fsx:
    """The file and what it must hold."""

    def __init__(self, path, dice):
        self.path, self.dice = os.fspath(path), dice
        self.wanted = bytearray()
        self.handle = None
        self.history = []

    def open(self):
        self.handle = os.open(self.path, os.O_RDWR | os.O_CREAT)

    def close(self):
        os.close(self.handle)
        self.handle = None

    def span(self, end):
        offset = self.dice.randrange(end + 1)
        return offset, self.dice.randrange(min(end - offset, 70_000) + 1)

    def write(self):
        offset, length = self.span(LARGEST)
        data = self.dice.randbytes(length)
        assert os.pwrite(self.handle, data, offset) == length
        if length:
            self.wanted.extend(bytes(max(0, offset + length - len(self.wanted))))
            self.wanted[offset:offset + length] = data
        return offset, length

    def read(self):
        offset, length = self.span(LARGEST)
        assert os.pread(self.handle, length, offset) == self.wanted[offset:offset + length]
        return offset, length

    def truncate(self):
        size = self.dice.choice([0, self.dice.randrange(LARGEST), len(self.wanted)])
        if self.dice.random() < 0.5:
            os.ftruncate(self.handle, size)
        else:
            os.truncate(self.path, size)
        del self.wanted[size:]
        self.wanted.extend(bytes(size - len(self.wanted)))
        return size,

    def mapped_write(self):
        offset, length = self.span(len(self.wanted))
        if not length:
            return ()
        data = self.dice.randbytes(length)
        with mmap.mmap(self.handle, len(self.wanted)) as pages:
            pages[offset:offset + length] = data
            pages.flush()
        self.wanted[offset:offset + length] = data
        return offset, length

    def mapped_read(self):
        if not self.wanted:
            return ()
        with mmap.mmap(self.handle, len(self.wanted), prot=mmap.PROT_READ) as pages:
            assert pages[:] == self.wanted
        return len(self.wanted),

    def reopen(self):
        self.close()
        if self.dice.random() < 0.2:
            self.handle = os.open(self.path, os.O_RDWR | os.O_TRUNC)
            self.wanted.clear()
        else:
            self.open()
        return len(self.wanted),

    def fsync(self):
        os.fsync(self.handle)
        return ()

    def step(self):
        name = self.dice.choice(["write"] * 4 + ["read"] * 3 + ["truncate"] * 2 +
                                ["mapped_write", "mapped_read", "reopen", "fsync"])
        self.history.append([name])
        try:
            self.history[-1] += getattr(self, name)()
            assert os.fstat(self.handle).st_size == len(self.wanted)
        except AssertionError as error:
            raise AssertionError(f"{error}\nafter {self.history[-20:]}") from None


@pytest.mark.parametrize("seed", SEEDS)
def test_one_file_with_all_there_is(mounts, session, tcp_pool, tmp_path, seed):
    """Without the proxy: its threads stand still while this one waits for a page."""
    dice = random.Random(seed)
    file = Fsx(tmp_path / "mnt/file", dice)

    def mounted():
        return mounts(pool=tcp_pool, session=session, at=tmp_path / "mnt", cache=tmp_path / "cache")
    for turn in range(4):
        mount = mounted()
        file.open()
        assert os.pread(file.handle, LARGEST + 1, 0) == file.wanted
        for _ in range(STEPS // 4):
            file.step()
        file.close()
        if turn % 2:
            assert mount.unmount() == 0
        else:
            mount.kill()
    mount = mounted()
    mount.sync()
    assert tcp_pool.read(session, "file") == file.wanted
    assert mount.status()["conflicts"] == 0
