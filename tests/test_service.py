"""What systemd sees of a mount and of a pool that it starts, without systemd: a socket that hears what
sd_notify(3) would say, and sockets handed over as systemd.socket(5) does it."""

import fcntl
import json
import os
import re
import socket
import subprocess
import threading

import pytest

from support import process
from support.mount import mounted
from support.pool import Pool
from support.wait import wait_for

pytestmark = pytest.mark.session


class Manager:
    """The end of $NOTIFY_SOCKET where systemd listens."""

    def __init__(self, name):
        self.lines = []
        self.socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self.socket.bind("\0" + name[1:] if name.startswith("@") else name)
        threading.Thread(target=self._listen, daemon=True).start()

    def _listen(self):
        while True:
            data = self.socket.recv(65536)
            if not data:
                return
            self.lines += data.decode().splitlines()

    def close(self):
        self.socket.shutdown(socket.SHUT_RDWR)
        self.socket.close()

    def wait(self, pattern, deadline=20):
        return wait_for(lambda: next((line for line in self.lines if re.fullmatch(pattern, line)), None),
                        deadline, f"{pattern} among {self.lines}")


@pytest.fixture(params=["file", "abstract"])
def manager(request, tmp_path):
    name = str(tmp_path / "notify") if request.param == "file" else f"@acafs-test-{tmp_path.name}-{os.getpid()}"
    it = Manager(name)
    it.name = name
    yield it
    it.close()


def test_it_tells_its_life(mounts, manager):
    mount = mounts(env={"NOTIFY_SOCKET": manager.name})
    manager.wait("READY=1")
    assert mounted(mount.path)
    assert manager.lines[:2] == ["READY=1", "STATUS=Mounted, every file is in the session"]
    assert mount.unmount("SIGTERM") == 0
    manager.wait("STOPPING=1")
    assert manager.wait(r"EXTEND_TIMEOUT_USEC=\d+") == "EXTEND_TIMEOUT_USEC=70000000"  # unmount-timeout and some
    assert not [line for line in manager.lines if line.startswith("WATCHDOG")]


def test_a_pool_that_is_away_shows_in_the_status(mounts, manager, proxy):
    mount = mounts(proxy=proxy, env={"NOTIFY_SOCKET": manager.name},
                   options=["timeout-connect=1", "timeout-read=1", "max-retries=0", "unmount-timeout=0"])
    manager.wait("READY=1")
    proxy.freeze()
    (mount / "a").write_text("12345")
    manager.wait(r"STATUS=Mounted, 1 files \(5 bytes\) not in the session yet.*")
    proxy.thaw()
    # What was on its way while the pool was frozen may still run into its time limit.
    wait_for(lambda: mount.sync() or True, 40, "the file in the session")
    manager.wait("STATUS=Mounted, every file is in the session")


def test_signs_of_life(mounts, manager):
    mounts(env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "200000"})
    wait_for(lambda: manager.lines.count("WATCHDOG=1") >= 3, 20, "three signs of life")
    assert manager.lines.index("READY=1") < manager.lines.index("WATCHDOG=1")


def test_no_signs_of_life_for_another_process(mounts, manager):
    mount = mounts(env={"NOTIFY_SOCKET": manager.name, "WATCHDOG_USEC": "1000", "WATCHDOG_PID": "1"})
    manager.wait("READY=1")
    assert mount.unmount("SIGTERM") == 0
    manager.wait("STOPPING=1")
    assert "WATCHDOG=1" not in manager.lines


def test_a_manager_that_does_not_listen_holds_nothing_up(mounts, tmp_path):
    """Its queue is full: the mount works all the same, and ends."""
    path = tmp_path / "notify"
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as deaf, \
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as filler:
        deaf.bind(str(path))
        filler.setblocking(False)
        with pytest.raises(BlockingIOError):
            while True:
                filler.sendto(b"x", str(path))
        mount = mounts(env={"NOTIFY_SOCKET": path, "WATCHDOG_USEC": "2000"})
        (mount / "a").write_text("x")
        assert os.listdir(mount.path) == ["a"]
        deaf.setblocking(False)
        said = b""

        def heard():
            nonlocal said
            said += deaf.recv(65536)
            return b"READY=1" in said
        wait_for(heard, 20, "READY=1 once there is room")
        assert mount.unmount("SIGTERM") == 0


@pytest.mark.parametrize("name", ["relative", "/nowhere/notify", "/" + "x" * 200, "@"])
def test_no_manager_there(mounts, name):
    mount = mounts(env={"NOTIFY_SOCKET": name})
    (mount / "a").write_text("x")
    assert mount.unmount("SIGTERM") == 0


def test_a_daemon_in_the_background_is_no_service(tmp_path, pool, session, manager):
    point = tmp_path / "point"
    point.mkdir()
    process.run([process.ACAFS, f"local#{session}", point], env=process.environment(
        HOME=tmp_path, ACAFS_CONFIG=os.devnull, XDG_RUNTIME_DIR=pool.directory, XDG_CACHE_HOME=tmp_path,
        NOTIFY_SOCKET=manager.name))
    assert mounted(point)
    process.run(["fusermount3", "-u", point])
    wait_for(lambda: not mounted(point))
    assert manager.lines == []


def test_the_journal_gets_levels(mounts, tmp_path):
    log = tmp_path / "acafs0.log"
    log.touch()
    at = log.stat()
    mount = mounts(env={"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"})
    assert mount.unmount("SIGTERM") == 0
    assert re.search(r"^<6>mounted on", mount.said(), re.M), mount.said()


def test_a_message_as_json(mounts, proxy):
    """Each line of stderr is a document, whatever is in it, and no secret ever."""
    mount = mounts(proxy=proxy, options=["log-format=json", "log-level=debug", "max-retries=0"])
    name = 'a "quoted\\" \u00fc'
    (mount / name).write_text("x")
    mount.sync()
    proxy.down()
    (mount / name).write_text("y")
    wait_for(lambda: "not on the server yet" in mount.said(), 20)
    proxy.up()
    mount.sync()
    assert mount.unmount("SIGTERM") == 0
    lines = [json.loads(line) for line in mount.said().splitlines()]
    for line in lines:
        assert list(line) == ["time", "level", "program", "mount", "message"]
        assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z", line["time"])
        assert line["level"] in ("error", "warning", "info", "debug")
        assert (line["program"], line["mount"]) == ("acafs", str(mount.path))
    assert {"level": "info", "message": f"mounted on {mount.path}"}.items() <= lines[
        [line["message"] for line in lines].index(f"mounted on {mount.path}")].items()
    assert any(name in line["message"] and line["level"] != "info" for line in lines)
    assert mount.pool.token not in mount.said() and mount.session not in mount.said()


def test_json_of_a_start_that_fails(tmp_path, proxy, tcp_pool):
    proxy.down()
    (tmp_path / "point").mkdir()
    done = process.run([process.ACAFS, proxy.url, tmp_path / "point", "-f", "-o", "log-format=json,max-retries=0"], check=False,
                       env=process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, ACAFS_TOKEN=tcp_pool.token))
    document = json.loads(done.stderr)
    assert done.returncode == 69 and document["level"] == "error" and "cannot connect" in document["message"]


def test_the_journal_goes_before_json(mounts, tmp_path):
    log = tmp_path / "acafs0.log"
    log.touch()
    at = log.stat()
    mount = mounts(env={"JOURNAL_STREAM": f"{at.st_dev}:{at.st_ino}"}, options=["log-format=json"])
    assert mount.unmount("SIGTERM") == 0
    assert re.search(r"^<6>mounted on", mount.said(), re.M), mount.said()


# --- sockets handed over to acapool

def hand_over(sockets, *arguments, log, pid="$$"):
    """acapool as systemd starts it: listening sockets from descriptor 3 on."""
    high = [fcntl.fcntl(it, fcntl.F_DUPFD, 100) for it in sockets]
    moves = " ".join(f"{3 + i}<&{fd} {fd}<&-" for i, fd in enumerate(high))
    script = f'exec {moves}; LISTEN_FDS={len(sockets)} LISTEN_PID={pid} exec "$@"'
    try:
        with open(log, "ab") as sink:
            return subprocess.Popen(["/bin/bash", "-c", script, "bash", str(process.ACAPOOL), *map(str, arguments)],
                                    stdin=subprocess.DEVNULL, stdout=sink, stderr=sink, pass_fds=high,
                                    env=process.environment())
    finally:
        for fd in high:
            os.close(fd)


@pytest.fixture
def unix(tmp_path):
    (tmp_path / "pool/acafs").mkdir(mode=0o700, parents=True)
    with socket.socket(socket.AF_UNIX) as it:
        it.bind(str(tmp_path / "pool/acafs/pool.sock"))
        it.listen(16)
        yield it


@pytest.fixture
def activated(tmp_path):
    started = []

    def start(*sockets, arguments=(), **how):
        log = tmp_path / "pool.log"
        started.append(hand_over(sockets, *arguments, log=log, **how))
        return started[-1]
    yield start
    for it in started:
        if it.poll() is None:
            it.terminate()
        it.wait(20)
    assert not process.alarms(tmp_path / "pool.log")


def client_of(tmp_path, **how):
    """A way to talk to a pool that this class did not start."""
    return Pool(tmp_path / "pool", **how)


def test_a_socket_from_systemd(activated, unix, tmp_path, session):
    """The pool comes and goes behind a socket that stays."""
    client = client_of(tmp_path)
    first = activated(unix)
    assert client.run(session, "6 * 7") == 42
    first.terminate()
    assert first.wait(20) == 0
    assert client.socket.exists(), "the socket is systemd's"
    with client._connection(30) as waiting:  # as while systemd starts the next
        waiting.request("GET", "/")
        second = activated(unix)
        assert waiting.getresponse().status == 200
    assert client.run(session, "6 * 7") == 42
    assert second.poll() is None


def test_a_pool_that_idles_out_leaves_the_socket(activated, unix, tmp_path, session):
    first = activated(unix, arguments=["--idle-exit", "1", "--cooldown", "1"])
    assert first.wait(30) == 0
    activated(unix)
    assert client_of(tmp_path).run(session, "1 + 1") == 2


def test_a_port_from_systemd(activated, tmp_path, session):
    with socket.socket() as port:
        port.bind(("127.0.0.1", 0))
        port.listen(16)
        client = client_of(tmp_path, tcp=True)
        client.port = port.getsockname()[1]
        token = tmp_path / "token"
        token.touch(mode=0o600)
        token.write_text(client.token)
        activated(port, arguments=["--token-file", token])
        assert client.run(session, "6 * 7") == 42
        client.token = "another"
        assert client.request("GET", "files", session).status == 401
    assert f"http://127.0.0.1:{client.port}" in (tmp_path / "pool.log").read_text()


def test_sockets_for_someone_else(activated, unix, tmp_path):
    """LISTEN_PID is another's: the variables are not for this process."""
    it = activated(unix, pid="1", arguments=["--socket", tmp_path / "own/pool.sock"])
    wait_for(lambda: (tmp_path / "own/pool.sock").exists(), 20, "its own socket")
    it.terminate()
    assert it.wait(20) == 0


@pytest.mark.parametrize("arguments, code, said", [
    (["--listen", "127.0.0.1:0"], 64, "--listen"), (["--socket", "/nowhere"], 64, "--socket")])
def test_sockets_and_options(activated, unix, tmp_path, arguments, code, said):
    assert activated(unix, arguments=arguments).wait(20) == code
    assert said in (tmp_path / "pool.log").read_text()


def everyones():
    it = socket.socket()
    it.bind(("0.0.0.0", 0))
    it.listen(1)
    return it


def deaf():
    it = socket.socket()
    it.bind(("127.0.0.1", 0))
    return it


@pytest.mark.parametrize("make, said", [
    (everyones, "not of the loopback interface"), (deaf, "takes no connections"),
    (lambda: socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM), "takes no connections"),
    (lambda: open(os.devnull), "not a socket|non-socket")], ids=["everyone's", "deaf", "datagrams", "no socket"])
def test_sockets_that_are_not_served(activated, tmp_path, make, said):
    with make() as it:
        assert activated(it).wait(20) == 69
    assert re.search(said, (tmp_path / "pool.log").read_text())


def test_two_of_a_kind(activated, unix, tmp_path):
    with socket.socket(socket.AF_UNIX) as second:
        second.bind(str(tmp_path / "pool/acafs/second.sock"))
        second.listen(1)
        assert activated(unix, second).wait(20) == 69
    assert "a second Unix socket" in (tmp_path / "pool.log").read_text()
