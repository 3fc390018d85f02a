"""The mount comes and goes: all the ways to begin and to end one."""

import json
import os
import re
import signal
import socket
import struct
import tempfile
from pathlib import Path

import pytest

from support import process
from support.mount import mounted
from support.wait import wait_for

pytestmark = pytest.mark.session

as_root = pytest.mark.skipif(os.getuid() != 0, reason="mount(8) wants root")


@pytest.mark.parametrize("how", ["fusermount3", pytest.param("umount", marks=as_root), "SIGTERM", "SIGINT"])
def test_ways_to_unmount(mount, how):
    (mount / "a").write_text("last words")
    assert mount.unmount(how) == 0
    assert not mounted(mount.path) and os.listdir(mount.path) == []
    assert mount.pool.read(mount.session, "a") == b"last words"


def test_a_busy_mount_is_not_torn_away(mount):
    with open(mount / "a", "w") as file:
        with pytest.raises(AssertionError, match="busy"):
            mount.unmount()
        file.write("still works")
    assert mount.unmount() == 0
    assert mount.pool.read(mount.session, "a") == b"still works"


def test_sigterm_with_files_open(mount):
    file = open(mount / "a", "w")
    file.write("x" * 100_000)
    file.flush()
    assert mount.unmount("SIGTERM") == 0
    with pytest.raises(OSError):
        file.write("y")
        file.flush()
    try:
        file.close()
    except OSError:
        pass
    assert mount.pool.read(mount.session, "a") == b"x" * 100_000


class Daemon:
    """acafs as users start it: it goes to the background by itself."""

    def __init__(self, folder, pool):
        self.point = folder / "point"
        self.point.mkdir()
        self.env = process.environment(HOME=folder, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory,
                                       XDG_CACHE_HOME=folder / "cache")

    def start(self, *arguments, **options):
        env = {**self.env, **options.pop("env", {})}
        return process.run([process.ACAFS, *arguments], env=env, **options)

    def pids(self):
        return [int(entry.name) for entry in Path("/proc").iterdir() if entry.name.isdigit()
                and self._is_ours(entry)]

    def _is_ours(self, entry):
        try:
            command = (entry / "cmdline").read_bytes().split(b"\0")
        except OSError:
            return False
        return command[0].endswith(b"acafs") and os.fsencode(self.point) in command

    def end(self):
        if mounted(self.point):
            process.run(["fusermount3", "-u", self.point], check=False)
        try:
            wait_for(lambda: not self.pids(), 20, "the daemon ending")
        except AssertionError:
            for pid in self.pids():
                os.kill(pid, signal.SIGKILL)
            raise


@pytest.fixture
def daemon(tmp_path, pool):
    it = Daemon(tmp_path, pool)
    yield it
    it.end()
    assert not mounted(it.point)


def test_it_goes_to_the_background(daemon, pool, session):
    daemon.start(f"local#{session}", daemon.point)
    assert mounted(daemon.point) == "fuse.acafs"
    (daemon.point / "a").write_text("x")
    assert len(daemon.pids()) == 1
    process.run(["fusermount3", "-u", daemon.point])
    wait_for(lambda: not daemon.pids(), 20)
    assert pool.read(session, "a") == b"x"


def test_the_background_daemon_leaves_its_group_when_it_has_mounted(daemon, proxy, tcp_pool, session):
    """An automount lets nobody near the mount point but the process group that is to mount there."""
    proxy.freeze()
    starter = process.start([process.ACAFS, f"{proxy.url}#{session}", daemon.point], daemon.point.parent / "log",
                            env={**daemon.env, "ACAFS_TOKEN": tcp_pool.token})
    pids = wait_for(lambda: len(daemon.pids()) == 2 and daemon.pids(), 20, "the daemon connecting")
    assert {os.getpgid(pid) for pid in pids} == {os.getpgid(0)}
    proxy.thaw()
    assert starter.wait(20) == 0 and mounted(daemon.point)
    pid, = daemon.pids()
    assert os.getsid(pid) == pid != os.getsid(0)


def test_the_background_daemon_holds_nothing_of_its_starter(daemon, session):
    """A pipe that reads acafs's output ends when acafs returns: nothing keeps it open."""
    out = process.run(f"{process.ACAFS} local#{session} {daemon.point} 2>&1 | cat", env=daemon.env, timeout=30)
    assert out.returncode == 0
    pid, = daemon.pids()
    assert os.readlink(f"/proc/{pid}/cwd") == "/"


def test_a_fresh_session_is_printed(daemon):
    out = daemon.start("local", daemon.point)
    found = re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", out.stdout + out.stderr)
    assert len(set(found)) == 1
    assert found[0] in (daemon.point / ".acafs/status").read_text()


def test_session_and_pool_from_the_environment(daemon, session):
    daemon.start(daemon.point, env={"ACAFS_SESSION": session, "ACAFS_POOL_ENDPOINT": "local"})
    assert session in (daemon.point / ".acafs/status").read_text()


def test_session_and_pool_from_a_configuration_file(daemon, session, tmp_path):
    config = tmp_path / "acafs.conf"
    config.write_text(f"[pool]\nendpoint = local\n[session]\nid = {session}\n")
    daemon.start(daemon.point, "-o", f"config={config}")
    assert session in (daemon.point / ".acafs/status").read_text()


def test_the_command_line_beats_environment_and_file(daemon, session, tmp_path):
    config = tmp_path / "acafs.conf"
    config.write_text("[session]\nid = from-the-file\n")
    daemon.start(f"local#{session}", daemon.point,
                 env={"ACAFS_SESSION": "from-the-environment", "ACAFS_CONFIG": str(config)})
    status = (daemon.point / ".acafs/status").read_text()
    assert session in status and "from-the" not in status


_MOUNT_8 = """set -e
mount --bind "$1" /usr/local/sbin
trap 'umount -lq "$2" || true' EXIT
mount -t fuse.acafs "local#$3" "$2" -o noatime,attr-timeout=3
findmnt -n -o FSTYPE "$2"
echo x > "$2/a"
umount "$2"
"""


@as_root
def test_mount_8_and_umount_8(daemon, pool, session, tmp_path):
    """mount(8) passes no PATH on: its helper finds acafs where the shell looks by itself, first in
    /usr/local/sbin. In a mount namespace of the test's own that is another directory."""
    binaries = tmp_path / "bin"
    binaries.mkdir()
    (binaries / "acafs").symlink_to(process.ACAFS)
    done = process.run(["unshare", "--mount", "sh", "-c", _MOUNT_8, "sh", binaries, daemon.point, session], env=daemon.env)
    assert done.stdout == "fuse.acafs\n"
    wait_for(lambda: not daemon.pids(), 20)
    assert pool.read(session, "a") == b"x\n"


_MOUNT_HELPER = """set -e
cp /usr/sbin/mount.fuse3 "$1"
mount --bind "$1" /usr/sbin
mount --bind "$1" /usr/local/sbin
trap 'umount -lq "$2" || true' EXIT
mount -t acafs "local#$3" "$2" -o noatime,attr-timeout=3
findmnt -n -o FSTYPE "$2"
echo x > "$2/a"
mount -o remount,ro "$2"
findmnt -n -o OPTIONS "$2" | grep -q '^ro,nosuid,nodev'
if (echo y > "$2/a") 2> /dev/null; then exit 3; fi
mount -o remount,rw "$2"
echo z > "$2/a"
umount "$2"
mount -f -t acafs "local#$3" "$2"
! findmnt -n "$2"
"""


@as_root
def test_mount_helper_and_remount(daemon, pool, session, tmp_path):
    binaries = tmp_path / "bin"
    binaries.mkdir()
    for name in ("mount.acafs", "mount.fuse.acafs", "acafs"):
        (binaries / name).symlink_to(process.ACAFS)
    process.run(["unshare", "--mount", "sh", "-c", _MOUNT_HELPER, "sh", binaries, daemon.point, session],
                env=daemon.env)
    wait_for(lambda: not daemon.pids(), 20)
    assert pool.read(session, "a") == b"z\n"


def test_mount_helper_finds_the_one_that_changes_users(daemon, session, tmp_path):
    """As mount(8) starts it, without a PATH; mount.fuse3 is in sbin."""
    helper = tmp_path / "mount.acafs"
    helper.symlink_to(process.ACAFS)
    done = process.run([helper, f"local#{session}", daemon.point, "-o", "setuid=nobody-of-that-name"], env={}, check=False)
    assert done.returncode != 0 and not mounted(daemon.point)
    assert "nobody-of-that-name" in done.stderr and "No such file" not in done.stderr


def test_it_shows_in_the_mount_table(mount):
    line, = [line for line in Path("/proc/self/mounts").read_text().splitlines() if f" {mount} " in line]
    assert line.split()[2] == "fuse.acafs"
    assert process.run(["findmnt", "-n", "-o", "FSTYPE", mount.path]).stdout.strip() == "fuse.acafs"


def test_killed_and_mounted_again(mounts, session, tmp_path):
    one = mounts(session=session, cache=tmp_path / "cache")
    (one / "a").write_text("safe")
    one.sync()
    one.process.kill()
    one.process.wait()
    with pytest.raises(OSError):
        os.listdir(one)
    one.kill()
    two = mounts(session=session, cache=tmp_path / "cache", at=one.path)
    assert (two / "a").read_text() == "safe"


def test_a_mount_over_files_hides_them(mounts, tmp_path):
    (tmp_path / "full").mkdir()
    (tmp_path / "full/local").write_text("x")
    mount = mounts(at=tmp_path / "full")
    assert os.listdir(mount) == []
    assert mount.unmount() == 0
    assert os.listdir(tmp_path / "full") == ["local"]


def test_read_only(mounts, session, pool):
    pool.write(session, "a", b"x")
    mount = mounts(session=session, options=["ro"])
    assert (mount / "a").read_text() == "x"
    for call in (lambda: (mount / "b").write_text("x"), lambda: os.mkdir(mount / "d"), lambda: os.unlink(mount / "a"),
                 lambda: os.rename(mount / "a", mount / "b"), lambda: os.chmod(mount / "a", 0o600)):
        with pytest.raises(OSError) as error:
            call()
        assert error.value.errno == 30  # EROFS
    assert pool.names(session) == {"a"}


def test_uid_gid_and_umask(mounts, session, pool):
    pool.write(session, "a", b"x")
    mount = mounts(session=session, options=["uid=1234", "gid=4321", "umask=027"])
    status = os.stat(mount / "a")
    assert (status.st_uid, status.st_gid, status.st_mode & 0o777 & 0o027) == (1234, 4321, 0)


@as_root
@pytest.mark.parametrize("allow", [False, True])
def test_other_users_come_in_only_when_allowed(mounts, allow):
    mount = mounts(options=["allow_other"] if allow else [], at=Path(tempfile.mkdtemp(prefix="acafs-")))
    try:
        (mount / "a").write_text("x")
        done = process.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", mount / "a"], check=False)
        assert (done.returncode == 0) == allow
        done = process.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "cat", mount / ".acafs/status"],
                           check=False)
        assert done.returncode != 0
        mount.unmount()
    finally:
        mount.kill()
        mount.path.rmdir()


def test_it_keeps_no_descriptors(mount):
    def descriptors():
        return len(os.listdir(f"/proc/{mount.pid}/fd"))

    def work():
        for n in range(20):
            (mount / f"f{n}").write_text("x" * n)
            assert (mount / f"f{n}").read_text() == "x" * n
            os.rename(mount / f"f{n}", mount / "g")
            os.unlink(mount / "g")
        os.mkdir(mount / "d")
        os.rmdir(mount / "d")
        mount.sync()
    for _ in range(10):
        work()  # executions each take a new connection, up to a limit
    before = descriptors()
    for _ in range(5):
        work()
    wait_for(lambda: descriptors() <= before + 2, 10, "descriptors being closed")


def test_a_crash_leaves_no_secret_core(mount):
    """The daemon holds a token: no core dump, no ptrace by others of the same user."""
    limits = Path(f"/proc/{mount.pid}/limits").read_text()
    undumpable = os.stat(f"/proc/{mount.pid}/status").st_uid == 0
    core, = [line for line in limits.splitlines() if line.startswith("Max core file size")]
    assert undumpable or core.split()[4] == "0"


def test_the_cache_is_for_its_owner_only(mount, tmp_path):
    (mount / "a").write_text("private")
    mount.sync()
    caches = [path for path in tmp_path.iterdir() if path.name.startswith("cache")]
    assert caches
    for cache in caches:
        assert os.stat(cache).st_mode & 0o077 == 0


# --- the pool that starts by itself

def listener(path):
    """The process that listens on a Unix socket."""
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(path))
        return struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0]


@pytest.fixture
def self_started(runtime):
    """Where acafs starts a pool by itself; ended afterwards."""
    path = runtime / "acafs/pool.sock"
    yield path
    if path.exists():
        pid = listener(path)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 20, "the pool ending")


def test_local_starts_a_pool(mounts, self_started, runtime):
    settings = {"XDG_RUNTIME_DIR": str(runtime)}
    one = mounts("local", env=settings)
    (one / "a").write_text("x")
    one.sync()
    assert os.stat(runtime / "acafs").st_mode & 0o777 == 0o700
    pool = listener(self_started)
    two = mounts("local", env=settings, session=one.session)
    assert (two / "a").read_text() == "x"
    assert listener(self_started) == pool
    assert one.unmount() == 0
    assert (two / "a").read_text() == "x"


def test_two_at_once_start_one_pool(mounts, self_started, runtime):
    several = [mounts("local", env={"XDG_RUNTIME_DIR": str(runtime)}, start=False) for _ in range(3)]
    for mount in several:
        mount.path.mkdir()
        mount.process = process.start(mount.command(), mount.log, env=mount.env)
    for mount in several:
        wait_for(lambda: mounted(mount.path), 20, "mounting")
    for mount in several:
        (mount / "a").write_text("x")
        mount.sync()


def test_a_socket_directory_of_someone_else_is_refused(mounts, runtime):
    (runtime / "acafs").mkdir()
    (runtime / "acafs").chmod(0o777)
    mount = mounts("local", env={"XDG_RUNTIME_DIR": str(runtime)}, start=False)
    mount.path.mkdir()
    done = process.run(mount.command(), check=False, env=mount.env, timeout=30)
    assert done.returncode != 0 and str(runtime / "acafs") in done.stderr


# --- acafs status

def test_status_of_a_mount_point(mount):
    (mount / "a").write_text("x")
    mount.sync()
    (mount / "d").mkdir()
    out = process.run([process.ACAFS, "status"], env=mount.env, cwd=mount / "d").stdout
    assert mount.session in out and "queue       empty" in out
    told = process.run([process.ACAFS, "status", "--json", mount.path], env=mount.env).stdout
    assert json.loads(told)["session"] == mount.session
    assert json.loads((mount / ".acafs/status").read_text())


def test_status_of_no_mount(mount, tmp_path):
    done = process.run([process.ACAFS, "status", tmp_path], check=False, env=mount.env)
    assert done.returncode == 66 and str(tmp_path) in done.stderr
    done = process.run([process.ACAFS, "status"], check=False, env=mount.env, cwd=tmp_path)
    assert done.returncode == 66 and "acafs list" in done.stderr
    assert process.run([process.ACAFS, "status", "--nonsense"], check=False, env=mount.env).returncode == 64


def test_list_of_all_mounts(mounts):
    one, other = mounts(), mounts()
    lines = process.run([process.ACAFS, "list"], env=one.env).stdout.splitlines()
    rows = {line.split("\t")[0]: line.split("\t")[1:] for line in lines}
    for mount in (one, other):
        source, state = rows[str(mount.path)]
        assert source == f"local#{mount.session}" and state == "ok"


def test_list_with_one_that_does_not_answer(mounts):
    one, other = mounts(), mounts()
    os.kill(one.pid, signal.SIGSTOP)
    try:
        lines = process.run([process.ACAFS, "list"], env=one.env).stdout.splitlines()
    finally:
        os.kill(one.pid, signal.SIGCONT)
    rows = {line.split("\t")[0]: line.split("\t")[-1] for line in lines}
    assert rows[str(one.path)] == "its daemon does not answer" and rows[str(other.path)] == "ok"


# --- what the log tells

def test_usr1_tells_the_state(mount):
    os.kill(mount.pid, signal.SIGUSR1)
    wait_for(lambda: "state: jobs_waiting: 0" in mount.said(), 10, "the state in the log")
    assert 'state: pool: "local"' in mount.said() and mount.session not in mount.said()


def test_trace_holds_no_secret(mounts, proxy):
    mount = mounts(proxy=proxy, start=False)
    mount.path.mkdir()
    command = mount.command() + ["-d"]
    mount.process = process.start(command, mount.log, env=mount.env)
    wait_for(lambda: mounted(mount.path), 20, "mounting")
    (mount / "seen").write_text("x")
    mount.sync()
    wait_for(lambda: "files/seen" in mount.said() or "POST" in mount.said(), 10, "the trace")
    said = mount.said()
    assert "LOOKUP" in said and "HTTP 200" in said
    assert mount.session not in said and mount.pool.token not in said
