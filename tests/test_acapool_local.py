"""How programs find the user's own pool, or start it: src/local, by a driver that does nothing else."""

import os
import signal
import socket
import stat
import struct
import subprocess

import pytest

from clients.server import ACAPOOL, Server, wait_until

DRIVER = ACAPOOL.parents[2] / "tests/unit/local_driver"
pytestmark = pytest.mark.skipif(not DRIVER.exists(), reason="built without cmocka")


def drive(*arguments, **env):
    return subprocess.Popen([str(part) for part in (DRIVER, *arguments)], stdout=subprocess.PIPE, text=True,
                            env={"PATH": f"{ACAPOOL.parent}:/usr/bin:/bin", "ASAN_OPTIONS": "exitcode=99", **{key: str(value) for key, value in env.items()}})


def ensure(*arguments, **env):
    process = drive(*arguments, **env)
    out = process.communicate(timeout=60)[0].strip()
    return out.split(" ", 1)[0], out


def owner(path):
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(str(path))
        return struct.unpack("3i", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


@pytest.fixture
def path(tmp_path):
    it = tmp_path / "run/pool.sock"
    yield it
    if it.exists():
        try:
            os.kill(owner(it), signal.SIGTERM)
        except ConnectionRefusedError:
            return
        wait_until(lambda: not it.exists(), 20, "the pool ending")


def test_where_it_is(tmp_path):
    assert ensure(XDG_RUNTIME_DIR=tmp_path)[1] == f"{tmp_path}/acafs/pool.sock"
    user = os.geteuid()
    usual = f"/run/user/{user}/acafs/pool.sock" if os.path.isdir(f"/run/user/{user}") else f"/tmp/acafs-{user}/pool.sock"
    assert ensure()[1] == usual
    assert ensure(XDG_RUNTIME_DIR="")[1] == usual
    assert ensure(XDG_RUNTIME_DIR="relative")[1] == usual


def test_it_is_started_and_then_found(path):
    assert ensure(path)[0] == "0"
    pool = owner(path)
    assert stat.S_IMODE(os.stat(path.parent).st_mode) == 0o700
    assert ensure(path)[0] == "0" and owner(path) == pool
    assert ensure(path, "/nonexistent")[0] == "0"
    with open(f"/proc/{pool}/cmdline") as line:
        assert line.read().split("\0")[1:6] == ["--socket", str(path), "--idle-exit", "60", "--ready-fd"]
    assert os.getsid(pool) not in (0, os.getsid(0)) and os.readlink(f"/proc/{pool}/fd/0") == "/dev/null"


def test_many_at_once_start_one(path):
    starters = [drive(path) for _ in range(8)]
    assert [each.communicate(timeout=60)[0].split()[0] for each in starters] == ["0"] * 8
    pool = owner(path)
    found = []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/cmdline") as line:
                found += [int(pid)] if f"--socket\0{path}\0" in line.read() else []
        except OSError:
            pass
    assert found == [pool]


def test_a_socket_that_was_left_over(path):
    assert ensure(path)[0] == "0"
    pool = owner(path)
    os.kill(pool, signal.SIGKILL)
    wait_until(lambda: not os.path.exists(f"/proc/{pool}"), 10, "its end")
    assert path.exists()
    assert ensure(path)[0] == "0" and owner(path) != pool


def test_a_pool_started_by_hand_is_found(tmp_path):
    with Server(tmp_path) as server:
        assert ensure(server.path, "/nonexistent")[0] == "0"
        assert owner(server.path) == server.process.pid


def test_directories_above_the_socket_are_made(tmp_path):
    """Each for its owner alone; those that are there stay as they are."""
    (tmp_path / "there").mkdir(mode=0o755)
    socket_path = tmp_path / "there/a/b/pool.sock"
    with Server(tmp_path, "--socket", socket_path) as server:
        assert owner(socket_path) == server.process.pid
    modes = [stat.S_IMODE(os.stat(tmp_path / part).st_mode) for part in ("there", "there/a", "there/a/b")]
    assert modes == [0o755, 0o700, 0o700]


def test_a_program_that_is_not_there(path):
    error, said = ensure(path, "/nonexistent/acapool")
    assert error == "ENOENT" and "is acapool installed?" in said


def test_a_program_that_fails(path, tmp_path):
    script = tmp_path / "fails"
    script.write_text("#!/bin/sh\nfor last; do :; done\neval \"echo 'failed: it has no luck' >&$last\"\n")
    script.chmod(0o755)
    error, said = ensure(path, script)
    assert error == "EHOSTUNREACH" and said.endswith("failed: it has no luck")


def test_directories_of_others_are_refused(tmp_path):
    open_one = tmp_path / "open"
    open_one.mkdir()
    open_one.chmod(0o755)
    error, said = ensure(open_one / "pool.sock")
    assert error == "EACCES" and "chmod 700" in said
    closed = tmp_path / "closed"
    closed.mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(closed)
    assert ensure(tmp_path / "link/pool.sock")[0] == "EACCES"
    (tmp_path / "file").touch()
    assert ensure(tmp_path / "file/pool.sock")[0] == "EACCES"
    assert ensure("/proc/no/where/pool.sock")[0] == "ENOENT"
    if os.geteuid() == 0:
        os.chown(closed, 65534, 65534)
        error, said = ensure(closed / "pool.sock")
        assert error == "EACCES" and "someone else" in said
