"""What tests/bench compares: servers on this machine, a delay before them, and mounts of them."""

import getpass
import os
import shutil
import socket
import subprocess
import time
import uuid
from pathlib import Path

from support import filler, process
from support.mount import Mount, mounted
from support.pool import VERSION, Pool
from support.wait import wait_for

_FILLER = Path(filler.__file__).read_text()


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def listens(port):
    with socket.create_connection(("127.0.0.1", port), timeout=5):
        return True


class Delay:
    """A loopback port behind which `port` is that many milliseconds away, there and back."""

    def __init__(self, port, milliseconds, always=False):
        self.process = None
        self.port = port
        if milliseconds or always:
            self.process = subprocess.Popen([process.BUILD / "tests/delay", str(port), str(milliseconds)],
                                            stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            self.port = int(self.process.stdout.readline())

    def stop(self):
        if self.process:
            self.process.stdin.close()
            self.process.wait(10)
            self.process.stdout.close()


def stop(child):
    if child and child.poll() is None:
        child.terminate()
        try:
            child.wait(20)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()


class Contestant:
    """A server with files, `delay` ms away, and a way to work on them.

    `root` is where the server's files are seen as a directory, `pids` whose memory and CPU time that
    takes. fill() puts files on the server behind the back of the mount."""

    root = None
    pids = ()
    forgets_after = 0  # seconds until it looks again whether something came

    def __init__(self, scratch, delay):
        self.scratch = Path(scratch)
        self.scratch.mkdir(parents=True)
        self.delay = delay

    def start(self, folders):
        """Serves `folders` [(folder, count, size)], and mounts."""

    def fill(self, folder, count, size):
        raise NotImplementedError

    def found(self, folder):
        """filler.found() of a folder on the server."""
        raise NotImplementedError

    def drain(self, folder, count, size):
        """Until what was written there is on the server."""

    def drain_saved(self, files):
        """The same for files [(name, content)] that were replaced in the folder `save`."""
        self.drain("save", 0, 0)

    def stop(self):
        pass


class Directory(Contestant):
    """A plain local directory: nothing is faster."""

    def __init__(self, scratch, delay):
        super().__init__(scratch, delay)
        self.served = self.scratch / "served"
        self.served.mkdir()
        self.root = self.served

    def start(self, folders):
        for folder in folders:
            self.fill(*folder)

    def fill(self, folder, count, size):
        filler.fill(self.served, folder, count, size)

    def found(self, folder):
        return filler.found(self.served, folder)


class _Mounted(Directory):
    """A directory served and mounted by someone else's programs."""

    def __init__(self, scratch, delay):
        super().__init__(scratch, delay)
        self.root = self.scratch / "mnt"
        self.root.mkdir()
        self.server = self.mount = self.away = None

    def start(self, folders):
        super().start(folders)
        port = free_port()
        self.server = process.start(self.serve(port), self.scratch / "server.log", env=self.environment())
        wait_for(lambda: listens(port), 20, f"{self.server.args[0]} listening")
        self.away = Delay(port, self.delay)
        self.mount = process.start(self.join(self.away.port), self.scratch / "mount.log",
                                   env=self.environment())
        wait_for(lambda: mounted(self.root) or self.mount.poll() is not None, 20, "mounting")
        assert self.mount.poll() is None, (self.scratch / "mount.log").read_text()

    def environment(self):
        return process.environment(HOME=self.scratch)

    def serve(self, port):
        raise NotImplementedError

    def join(self, port):
        raise NotImplementedError

    def stop(self):
        if mounted(self.root):
            subprocess.run(["fusermount3", "-u", self.root], check=False)
        if self.mount:
            try:
                self.mount.wait(20)
            except subprocess.TimeoutExpired:
                subprocess.run(["fusermount3", "-uz", self.root], check=False)
        stop(self.mount)
        if self.away:
            self.away.stop()
        stop(self.server)


class Sshfs(_Mounted):
    """sshfs on an sshd of its own, with keys of its own."""

    def serve(self, port):
        os.makedirs("/run/sshd", exist_ok=True)  # where it shuts itself in
        for key in ("host", "user"):
            process.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.scratch / key])
        settings = self.scratch / "sshd_config"
        settings.write_text("\n".join([
            "ListenAddress 127.0.0.1", f"Port {port}", f"HostKey {self.scratch}/host", "PidFile none",
            f"AuthorizedKeysFile {self.scratch}/user.pub", "StrictModes no", "UsePAM no",
            "PasswordAuthentication no", "KbdInteractiveAuthentication no", "PermitRootLogin yes",
            "Subsystem sftp internal-sftp", ""]))
        return ["/usr/sbin/sshd", "-D", "-e", "-f", settings]

    def join(self, port):
        return ["sshfs", f"{getpass.getuser()}@127.0.0.1:{self.served}", self.root, "-f", "-p", str(port),
                "-F", "/dev/null", "-o", f"IdentityFile={self.scratch}/user", "-o", "IdentitiesOnly=yes",
                "-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null"]

    @property
    def pids(self):
        children = Path(f"/proc/{self.mount.pid}/task/{self.mount.pid}/children").read_text().split()
        return [self.mount.pid, *map(int, children)]  # ssh does half of its work


class Rclone(_Mounted):
    """rclone mount of an rclone serve webdav. Sent at once (--vfs-write-back 0s) a file that is renamed
    meanwhile stays on the server under its old name for good, so it waits a little."""

    def environment(self):
        return process.environment(HOME=self.scratch, RCLONE_CONFIG=self.scratch / "rclone.conf")

    def serve(self, port):
        return ["rclone", "serve", "webdav", self.served, "--addr", f"127.0.0.1:{port}"]

    def join(self, port):
        return ["rclone", "mount", f":webdav,url='http://127.0.0.1:{port}',vendor=other:", self.root,
                "--vfs-cache-mode", "full", "--vfs-write-back", "100ms", "--cache-dir", self.scratch / "cache"]

    @property
    def pids(self):
        return [self.mount.pid]

    def drain(self, folder, count, size):
        """It has no word for that: looked up on the server."""
        wanted = [count, filler.digest(folder, count, size)]

        def complete():
            files = [self.served / folder / name for name in filler.names(count)]
            return all(file.stat().st_size == size for file in files) and self.found(folder) == wanted
        wait_for(complete, 120, f"{folder} on the server", every=0.005)

    def drain_saved(self, files):
        wait_for(lambda: all((self.served / "save" / name).read_bytes() == content for name, content in files),
                 120, "the saved files on the server", every=0.005)


class _OnPool(Contestant):
    """A session of an acapool."""

    def __init__(self, scratch, delay):
        super().__init__(scratch, delay)
        self.pool = Pool(self.scratch / "pool", tcp=True)
        self.session = str(uuid.uuid4())
        self.away = None

    def start(self, folders):
        self.pool.start()
        self.pool.run(self.session, _FILLER)
        for folder in folders:
            self.fill(*folder)
        self.away = Delay(self.pool.port, self.delay)

    def fill(self, folder, count, size):
        self.pool.run(self.session, f"fill('/mnt/data', {folder!r}, {count}, {size})")

    def found(self, folder):
        return self.pool.run(self.session, f"found('/mnt/data', {folder!r})")

    def stop(self):
        if self.away:
            self.away.stop()
        self.pool.stop()


class Acafs(_OnPool):
    forgets_after = 5.5  # attr-timeout is 5 s

    def start(self, folders):
        super().start(folders)
        env = process.environment(HOME=self.scratch, ACAFS_CONFIG=os.devnull, ACAFS_TOKEN=self.pool.token)
        self.mount = Mount(self.scratch / "mnt", f"http://127.0.0.1:{self.away.port}#{self.session}",
                           env=env, log=self.scratch / "acafs.log", cache=self.scratch / "cache")
        self.mount.start()
        self.root = self.mount.path

    @property
    def pids(self):
        return [self.mount.pid]

    def drain(self, folder, count, size):
        self.mount.sync()

    def stop(self):
        if self.root:
            self.mount.finish()
        super().stop()


class Curl(_OnPool):
    """The calls that the work needs, made by hand."""

    def start(self, folders):
        super().start(folders)
        self.work = self.scratch / "work"
        self.work.mkdir()

    def url(self, what, folder):
        return (f"http://127.0.0.1:{self.away.port}/{what}?api-version={VERSION}"
                f"&identifier={self.session}&path={folder}")

    def curl(self, transfers, *options):
        """Runs curl with one section of settings [(name, value)] for each transfer; what it prints."""
        settings = self.work / "curl.conf"
        token = ("header", f"Authorization: Bearer {self.pool.token}")
        settings.write_text("\nnext\n".join(
            "\n".join(f'{name} = "{value}"' for name, value in [*transfer, token]) for transfer in transfers))
        done = process.run(["curl", "-q", "-sS", "--fail-early", *options, "-K", settings], timeout=300)
        return done.stdout

    def target(self, name):
        """An empty directory for what comes down."""
        path = self.work / name
        shutil.rmtree(path, ignore_errors=True)
        path.mkdir()
        return path


def proxy_speed(size=200 << 20):
    """MB/s of one stream past a server of plain sockets: straight, and through Delay with 0 ms."""
    script = ("import socket, sys\nwith socket.create_server(('127.0.0.1', 0)) as s:\n"
              " print(s.getsockname()[1], flush=True)\n block = bytes(1 << 20)\n"
              " while True:\n  c, _ = s.accept()\n"
              f"  with c:\n   [c.sendall(block) for _ in range({size >> 20})]\n")
    server = subprocess.Popen(["/usr/bin/python3", "-c", script], stdout=subprocess.PIPE)
    port = int(server.stdout.readline())
    speeds = []
    buffer = bytearray(1 << 20)
    for away in (Delay(port, 0), Delay(port, 0, always=True)):
        begin, got = time.monotonic(), 0
        with socket.create_connection(("127.0.0.1", away.port)) as connection:
            while n := connection.recv_into(buffer):
                got += n
        assert got == size
        speeds.append(size / 1e6 / (time.monotonic() - begin))
        away.stop()
    server.kill()
    server.wait()
    server.stdout.close()
    return speeds


ALL = {"acafs": Acafs, "sshfs": Sshfs, "rclone": Rclone, "curl": Curl, "local": Directory}
