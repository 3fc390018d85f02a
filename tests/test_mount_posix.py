"""What programs rely on without thinking: each call on the mount as on a local disk."""

import ctypes
import errno
import fcntl
import mmap
import os
import stat
import subprocess
import threading
import time

import pytest

from support.process import environment, run
from support.wait import wait_for

pytestmark = pytest.mark.usefixtures("folder")

_libc = ctypes.CDLL(None, use_errno=True)
NOREPLACE, EXCHANGE = 1, 2


def renameat2(old, new, flags):
    if _libc.renameat2(-100, os.fsencode(old), -100, os.fsencode(new), flags):
        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))


def refuses(code, call, *arguments, **named):
    with pytest.raises(OSError) as error:
        call(*arguments, **named)
    assert error.value.errno == code, f"{errno.errorcode[error.value.errno]}, not {errno.errorcode[code]}"


# --- open

def test_exclusive_create(folder):
    os.close(os.open(folder / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
    refuses(errno.EEXIST, os.open, folder / "a", os.O_CREAT | os.O_EXCL | os.O_WRONLY)
    os.symlink("nowhere", folder / "s")
    refuses(errno.EEXIST, os.open, folder / "s", os.O_CREAT | os.O_EXCL | os.O_WRONLY)


def test_one_of_many_wins_an_exclusive_create(folder):
    won = []

    def attempt(n):
        try:
            os.close(os.open(folder / "lock", os.O_CREAT | os.O_EXCL | os.O_WRONLY))
            won.append(n)
        except FileExistsError:
            pass
    threads = [threading.Thread(target=attempt, args=(n,)) for n in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) == 1


def test_open_truncates(folder):
    (folder / "a").write_text("long content")
    handle = os.open(folder / "a", os.O_WRONLY | os.O_TRUNC)
    assert os.fstat(handle).st_size == 0
    os.write(handle, b"x")
    os.close(handle)
    assert (folder / "a").read_text() == "x"


def test_what_open_refuses(folder):
    (folder / "d").mkdir()
    (folder / "f").write_text("")
    refuses(errno.EISDIR, os.open, folder / "d", os.O_WRONLY)
    refuses(errno.ENOENT, os.open, folder / "none", os.O_RDONLY)
    refuses(errno.ENOTDIR, os.open, folder / "f/x", os.O_RDONLY)
    refuses(errno.ENOTDIR, os.open, folder / "f", os.O_RDONLY | os.O_DIRECTORY)
    refuses(errno.ENOTDIR, os.mkdir, folder / "f/x")
    refuses(errno.ENOTDIR, os.rmdir, folder / "f")
    refuses(errno.EISDIR, os.unlink, folder / "d")


def test_descriptors_keep_to_their_mode(folder):
    (folder / "a").write_text("abc")
    reader = os.open(folder / "a", os.O_RDONLY)
    refuses(errno.EBADF, os.write, reader, b"x")
    os.close(reader)
    writer = os.open(folder / "a", os.O_WRONLY)
    refuses(errno.EBADF, os.read, writer, 1)
    os.close(writer)


# --- reading and writing

def test_two_descriptors_append(folder):
    one = os.open(folder / "log", os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    two = os.open(folder / "log", os.O_WRONLY | os.O_APPEND)
    for n in range(10):
        os.write(one, b"one %d\n" % n)
        os.write(two, b"two %d\n" % n)
    os.close(one)
    os.close(two)
    lines = (folder / "log").read_text().split("\n")
    assert lines[:-1] == [f"{who} {n}" for n in range(10) for who in ("one", "two")]


def test_two_processes_append(folder):
    run("for p in 1 2 3; do (for i in $(seq 50); do echo $p-$i >> log; done) & done; wait", cwd=folder)
    lines = (folder / "log").read_text().split()
    assert sorted(lines) == sorted(f"{p}-{i}" for p in (1, 2, 3) for i in range(1, 51))


def test_written_bytes_are_read_at_once(folder):
    with open(folder / "a", "wb", buffering=0) as writer, open(folder / "a", "rb", buffering=0) as reader:
        for n in range(20):
            writer.write(b"%03d" % n)
            assert reader.read(10) == b"%03d" % n
            assert os.stat(folder / "a").st_size == 3 * (n + 1)


def test_pwrite_pread_and_holes(folder):
    handle = os.open(folder / "a", os.O_RDWR | os.O_CREAT)
    os.pwrite(handle, b"end", 200_000)
    os.pwrite(handle, b"start", 0)
    assert os.pread(handle, 5, 0) == b"start"
    assert os.pread(handle, 195, 5) == bytes(195)
    assert os.pread(handle, 100, 199_990) == bytes(10) + b"end"
    assert os.pread(handle, 10, 300_000) == b""
    os.close(handle)
    content = (folder / "a").read_bytes()
    assert len(content) == 200_003 and content.strip(b"\0") == b"start" + bytes(199_995) + b"end"


def test_ftruncate_while_open(folder):
    with open(folder / "a", "w+b", buffering=0) as file:
        file.write(b"0123456789")
        os.ftruncate(file.fileno(), 4)
        assert os.fstat(file.fileno()).st_size == 4
        file.write(b"X")  # at 10
        file.seek(0)
        assert file.read() == b"0123" + bytes(6) + b"X"
        os.ftruncate(file.fileno(), 1000)
    assert (folder / "a").read_bytes() == b"0123" + bytes(6) + b"X" + bytes(989)


def test_mmap_reads_and_writes(folder):
    (folder / "a").write_bytes(b"a" * 10_000)
    with open(folder / "a", "r+b") as file:
        with mmap.mmap(file.fileno(), 0) as memory:
            assert memory[9_999:] == b"a"
            memory[5_000:5_003] = b"XYZ"
            memory.flush()
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as memory:
            assert memory.find(b"XYZ") == 5_000
    assert (folder / "a").read_bytes() == b"a" * 5_000 + b"XYZ" + b"a" * 4_997


def test_tail_f_follows(folder, tmp_path):
    log, out = folder / "log", tmp_path / "out"
    log.write_text("first\n")
    with open(out, "w") as sink:
        tail = subprocess.Popen(["tail", "-n", "+1", "-s", "0.1", "-f", log], stdout=sink)
    try:
        for n in range(3):
            with open(log, "a") as file:
                file.write(f"line {n}\n")
            wait_for(lambda: out.read_text().endswith(f"line {n}\n"), what="tail -f showing the line")
    finally:
        tail.kill()
        tail.wait()
    assert out.read_text() == "first\nline 0\nline 1\nline 2\n"


def test_fsync_and_fdatasync(folder):
    handle = os.open(folder / "a", os.O_WRONLY | os.O_CREAT)
    os.write(handle, b"one")
    os.fsync(handle)
    os.write(handle, b"two")
    os.fdatasync(handle)
    os.close(handle)
    assert (folder / "a").read_text() == "onetwo"


def test_dup_and_close(folder):
    handle = os.open(folder / "a", os.O_RDWR | os.O_CREAT)
    other = os.dup(handle)
    os.write(handle, b"one ")
    os.close(handle)
    os.write(other, b"two")
    os.close(other)
    assert (folder / "a").read_text() == "one two"


def test_copy_file_range_and_sendfile(folder):
    data = os.urandom(300_000)
    (folder / "a").write_bytes(data)
    run(["cp", "--reflink=auto", folder / "a", folder / "b"])
    assert (folder / "b").read_bytes() == data
    with open(folder / "a", "rb") as source, open(folder / "c", "wb") as target:
        while os.sendfile(target.fileno(), source.fileno(), None, 1 << 20):
            pass
    assert (folder / "c").read_bytes() == data


def test_posix_fallocate(folder):
    with open(folder / "a", "wb") as file:
        os.posix_fallocate(file.fileno(), 0, 5000)
    assert (folder / "a").read_bytes() == bytes(5000)


def test_locks(folder):
    with open(folder / "a", "w") as one, open(folder / "a", "w") as two:
        fcntl.flock(one, fcntl.LOCK_EX)
        refuses(errno.EAGAIN, fcntl.flock, two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.flock(one, fcntl.LOCK_UN)
        fcntl.flock(two, fcntl.LOCK_EX | fcntl.LOCK_NB)
        fcntl.lockf(one, fcntl.LOCK_EX | fcntl.LOCK_NB)


# --- names come and go under open files

def test_unlink_while_open(folder):
    with open(folder / "a", "w+") as file:
        file.write("still here")
        file.flush()
        os.unlink(folder / "a")
        assert not (folder / "a").exists() and os.listdir(folder) == []
        file.seek(0)
        assert file.read() == "still here"
        file.write(" and more")
        file.flush()
        assert os.fstat(file.fileno()).st_size == 19
        assert os.fstat(file.fileno()).st_nlink == 0
        (folder / "a").write_text("another")
        file.seek(0)
        assert file.read() == "still here and more"
    assert (folder / "a").read_text() == "another"


def test_rename_over_an_open_file(folder):
    (folder / "a").write_text("old")
    (folder / "b").write_text("new")
    with open(folder / "a") as old:
        os.rename(folder / "b", folder / "a")
        assert old.read() == "old"
        assert (folder / "a").read_text() == "new"
        old.seek(0)
        assert old.read() == "old"
    assert os.listdir(folder) == ["a"]


def test_rename_while_writing(folder):
    with open(folder / "a", "w") as file:
        file.write("one ")
        file.flush()
        os.rename(folder / "a", folder / "b")
        file.write("two")
    assert (folder / "b").read_text() == "one two"
    assert os.listdir(folder) == ["b"]


def test_rename_of_a_directory_above_an_open_file(folder):
    (folder / "d").mkdir()
    with open(folder / "d/a", "w") as file:
        os.rename(folder / "d", folder / "e")
        file.write("x")
    assert (folder / "e/a").read_text() == "x"


def test_renameat2(folder):
    (folder / "a").write_text("A")
    (folder / "b").write_text("B")
    refuses(errno.EEXIST, renameat2, folder / "a", folder / "b", NOREPLACE)
    assert (folder / "b").read_text() == "B"
    renameat2(folder / "a", folder / "c", NOREPLACE)
    assert sorted(os.listdir(folder)) == ["b", "c"]
    renameat2(folder / "b", folder / "c", EXCHANGE)
    assert ((folder / "b").read_text(), (folder / "c").read_text()) == ("A", "B")
    refuses(errno.ENOENT, renameat2, folder / "b", folder / "none", EXCHANGE)


def test_exchange_of_a_file_and_a_directory(folder):
    (folder / "d").mkdir()
    (folder / "d/in").write_text("in")
    (folder / "f").write_text("f")
    renameat2(folder / "d", folder / "f", EXCHANGE)
    assert (folder / "d").read_text() == "f"
    assert (folder / "f/in").read_text() == "in"


def test_rename_kinds_do_not_mix(folder):
    (folder / "d").mkdir()
    (folder / "f").write_text("f")
    refuses(errno.EISDIR, os.rename, folder / "f", folder / "d")
    refuses(errno.ENOTDIR, os.rename, folder / "d", folder / "f")
    refuses(errno.ENOENT, os.rename, folder / "none", folder / "x")
    os.rename(folder / "f", folder / "f")
    assert (folder / "f").read_text() == "f"


def test_removing_the_directory_one_stands_in(folder):
    (folder / "d").mkdir()
    done = run("rmdir ../d && ls -A && ! touch x 2>/dev/null", cwd=folder / "d")
    assert done.stdout == ""
    assert os.listdir(folder) == []


# --- directories

def test_many_entries_while_they_change(folder):
    names = {f"file-{n:04}" for n in range(2000)}
    kept = {name for name in names if int(name[5:]) % 2}
    for name in names:
        os.close(os.open(folder / name, os.O_CREAT | os.O_WRONLY))
    seen = []
    with os.scandir(folder) as entries:
        for n, entry in enumerate(entries):
            seen.append(entry.name)
            if n % 10 == 0:
                for doomed in sorted(names - kept)[n // 2:n // 2 + 5]:
                    os.unlink(folder / doomed)
                (folder / f"new-{n}").write_text("")
    assert len(seen) == len(set(seen)), "an entry came twice"
    assert kept <= set(seen), "an entry that stayed was left out"
    assert {name for name in os.listdir(folder) if name.startswith("file-")} >= kept


def test_listing_again_after_rewinding(folder):
    for n in range(300):
        (folder / f"{n}").write_text("")
    handle = os.open(folder, os.O_RDONLY)
    first = sorted(os.listdir(handle))
    os.unlink(folder / "7")
    second = sorted(os.listdir(handle))
    os.close(handle)
    assert len(first) == 300 and set(first) - set(second) == {"7"}


def test_inode_numbers(folder):
    (folder / "f").write_text("")
    (folder / "d").mkdir()
    for entry in os.scandir(folder):
        assert entry.inode() == os.stat(entry.path).st_ino
    before = os.stat(folder / "f").st_ino
    os.rename(folder / "f", folder / "d/g")
    assert os.stat(folder / "d/g").st_ino == before
    assert os.stat(folder / "d/..").st_ino == os.stat(folder).st_ino


def test_link_counts(folder):
    (folder / "f").write_text("")
    assert os.stat(folder / "f").st_nlink == 1
    (folder / "d/sub").mkdir(parents=True)
    assert run("find . -type d | wc -l", cwd=folder).stdout == "3\n"


@pytest.mark.session
def test_hard_links_and_devices_are_refused_plainly(folder):
    (folder / "a").write_text("")
    with pytest.raises(OSError) as error:
        os.link(folder / "a", folder / "b")
    assert error.value.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS, errno.EMLINK)
    with pytest.raises(OSError) as error:
        os.mknod(folder / "dev", stat.S_IFBLK | 0o600, os.makedev(7, 99))
    assert error.value.errno in (errno.EPERM, errno.ENOTSUP, errno.ENOSYS)
    assert os.listdir(folder) == ["a"]


# --- attributes

def test_times(folder):
    (folder / "a").write_text("x")
    os.utime(folder / "a", ns=(1_500_000_000_123_456_789, 1_400_000_000_987_654_321))
    status = os.stat(folder / "a")
    assert status.st_mtime_ns == 1_400_000_000_987_654_321
    assert status.st_atime_ns == 1_500_000_000_123_456_789
    os.utime(folder / "a")
    assert abs(os.stat(folder / "a").st_mtime - time.time()) < 60


def test_mtime_moves_with_writes_and_directories(folder):
    (folder / "a").write_text("x")
    os.utime(folder / "a", (1, 1))
    os.utime(folder, (1, 1))
    with open(folder / "a", "a") as file:
        file.write("y")
    assert os.stat(folder / "a").st_mtime > 1_000_000
    (folder / "b").write_text("")
    assert os.stat(folder).st_mtime > 1_000_000


def test_permission_bits(folder):
    (folder / "a").write_text("x")
    for mode in (0o600, 0o644, 0o755, 0o444, 0o000, 0o777):
        os.chmod(folder / "a", mode)
        assert stat.S_IMODE(os.stat(folder / "a").st_mode) == mode
    handle = os.open(folder / "b", os.O_CREAT | os.O_WRONLY, 0o640)
    os.fchmod(handle, 0o611)
    os.close(handle)
    assert stat.S_IMODE(os.stat(folder / "b").st_mode) == 0o611


def test_access(folder):
    (folder / "a").write_text("#!/bin/sh\n")
    assert os.access(folder / "a", os.R_OK | os.W_OK)
    assert not os.access(folder / "a", os.X_OK)
    assert not os.access(folder / "none", os.F_OK)
    done = run([folder / "a"], check=False, shell=False) if os.access(folder / "a", os.X_OK) else None
    assert done is None


def test_extended_attributes_are_answered_properly(folder):
    (folder / "a").write_text("x")
    assert os.listxattr(folder / "a") == [] or os.environ.get("ACAFS_TEST_DIRECTORY")
    for name in ("user.none", "security.capability", "system.posix_acl_access"):
        with pytest.raises(OSError) as error:
            os.getxattr(folder / "a", name)
        assert error.value.errno in (errno.ENODATA, errno.ENOTSUP), name
    done = run(["getfattr", "-d", folder / "a"], check=False)
    assert "Input/output" not in done.stderr


def test_statvfs(folder):
    status = os.statvfs(folder)
    assert status.f_bsize >= 512 and status.f_blocks > 0
    assert status.f_bavail <= status.f_blocks
    assert status.f_namemax == 255


def test_ls_as_many_at_once(folder):
    for n in range(50):
        (folder / f"f{n}").write_text(str(n))
    several = [subprocess.Popen(["ls", "-lR", folder], stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                                env=environment()) for _ in range(8)]
    answers = [process.communicate(timeout=30) for process in several]
    assert all(errors == b"" for _, errors in answers)
    assert len({out for out, _ in answers}) == 1
