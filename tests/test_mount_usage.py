"""Bad input gets one clear line and its exit code; nothing is left mounted."""

import os
import re
import socket

import pytest

from support import process
from support import proxy as fault
from support.mount import mounted

pytestmark = pytest.mark.session

USAGE, MOUNT_POINT, UNREACHABLE, NOT_ALLOWED, CONFIGURATION = 64, 66, 69, 77, 78


@pytest.fixture
def acafs(tmp_path, pool):
    """Runs acafs in an environment without settings; what it wrote and its exit status."""
    (tmp_path / "mnt").mkdir()

    def run(*arguments, env=None, timeout=30):
        settings = process.environment(**{"HOME": tmp_path, "XDG_RUNTIME_DIR": pool.directory, "ACAFS_CONFIG": os.devnull,
                                          "XDG_CACHE_HOME": tmp_path / "cache", **(env or {})})
        try:
            return process.run([process.ACAFS, *arguments], check=False, env=settings, cwd=tmp_path, timeout=timeout)
        finally:
            if mounted(tmp_path / "mnt"):
                process.run(["fusermount3", "-u", tmp_path / "mnt"])
                run.left_mounted = True
    run.left_mounted = False
    return run


def refuses(acafs, code, pattern, *arguments, **how):
    """acafs ends with that code and one line that matches; nothing is mounted."""
    done = acafs(*arguments, **how)
    lines = done.stderr.splitlines()
    assert (done.returncode, done.stdout) == (code, ""), (done.returncode, done.stdout, done.stderr)
    assert len(lines) == 1, f"not one line:\n{done.stderr}"
    assert lines[0].startswith("acafs: ")
    assert re.search(pattern, lines[0]), lines[0]
    assert not acafs.left_mounted
    return lines[0]


def test_help_and_version(acafs):
    done = acafs("--help")
    assert done.returncode == 0 and done.stderr == ""
    for word in ("MOUNTPOINT", "session", "cache-size", "config --options", "ACAFS_POOL_ENDPOINT", "-f"):
        assert word in done.stdout, word
    done = acafs("--version")
    assert done.returncode == 0 and re.match(r"acafs \d+\.\d+", done.stdout)


def test_no_arguments(acafs):
    done = acafs()
    assert done.returncode == USAGE and "MOUNTPOINT" in done.stderr


@pytest.mark.parametrize("arguments, named", [
    (["local", "mnt", "-o", "nonsense=1"], "nonsense"),
    (["local", "mnt", "-o", "attr-timeout=3,colour=red"], "colour"),
    (["--nonsense", "local", "mnt"], "nonsense"),
    (["local", "mnt", "-x"], "x"),
    (["local", "mnt", "third"], "third"),
    (["local", "mnt", "-o"], "-o"),
    (["local", "mnt", "-o", "timeout-read=soon"], "timeout-read"),
    (["local", "mnt", "-o", "timeout-read=-1"], "timeout-read"),
    (["local", "mnt", "-o", "cache-size=many"], "cache-size"),
    (["local", "mnt", "-o", "cache-size=99999999999999999999G"], "cache-size"),
    (["local", "mnt", "-o", "umask=999"], "umask"),
    (["local", "mnt", "-o", "log-level=loud"], "log-level"),
    (["local", "mnt", "-o", "max-retries"], "max-retries"),
], ids=lambda value: " ".join(value) if isinstance(value, list) else "")
def test_options_it_does_not_know(acafs, arguments, named):
    refuses(acafs, USAGE, re.escape(named), *arguments)


@pytest.mark.parametrize("session", ["abc", "x" * 129, "a b c d", "with/slash", "ünïcode", "new\nline"])
def test_bad_session_identifiers(acafs, session):
    refuses(acafs, USAGE, "session", f"local#{session}", "mnt")
    refuses(acafs, USAGE, "session", "local", "mnt", "-o", f"session={session}")


@pytest.mark.parametrize("url", ["http://example.com/pool", "http://10.0.0.1", "http://127.0.0.1.example.com/",
                                 "http://localhost.example.com/", "http://user@example.com", "ftp://127.0.0.1/", "https://",
                                 "nonsense"])
def test_endpoints_it_must_not_use(acafs, url):
    line = refuses(acafs, USAGE, r"https|endpoint|pool|URL", f"{url}#session-1", "mnt", env={"ACAFS_TOKEN": "sesame"})
    assert "sesame" not in line


def test_configuration_that_can_not_be_read(acafs, tmp_path):
    refuses(acafs, CONFIGURATION, "nowhere.conf.*No such file", "local", "mnt", "-o", f"config={tmp_path}/nowhere.conf")
    refuses(acafs, CONFIGURATION, "nowhere.conf", "local", "mnt", env={"ACAFS_CONFIG": f"{tmp_path}/nowhere.conf"})
    refuses(acafs, CONFIGURATION, re.escape(str(tmp_path)), "local", "mnt", "-o", f"config={tmp_path}")


@pytest.mark.skipif(os.getuid() == 0, reason="root reads everything")
def test_configuration_that_may_not_be_read(acafs, tmp_path):
    (tmp_path / "secret.conf").touch(mode=0)
    refuses(acafs, CONFIGURATION, "secret.conf.*Permission denied", "local", "mnt", "-o", f"config={tmp_path}/secret.conf")


@pytest.mark.parametrize("text, named", [
    ("[cache]\nsize = 2G\ncolour = red\n", "colour"), ("[palace]\nsize = 2G\n", "palace"),
    ("[cache]\nsize = much\n", "size"), ("[cache\nsize = 2G\n", r"\[cache|:1|line 1"), ("size = 2G\n", "size"),
], ids=["key", "section", "value", "syntax", "no section"])
def test_configuration_that_is_wrong(acafs, tmp_path, text, named):
    (tmp_path / "acafs.conf").write_text(text)
    refuses(acafs, CONFIGURATION, rf"acafs\.conf.*{named}|{named}.*acafs\.conf", "local", "mnt", "-o",
            f"config={tmp_path}/acafs.conf")


def test_mount_points_that_are_none(acafs, tmp_path):
    (tmp_path / "file").touch()
    refuses(acafs, MOUNT_POINT, "nowhere.*No such file", "local#session-1", "nowhere")
    refuses(acafs, MOUNT_POINT, "file.*(N|n)ot a directory", "local#session-1", "file")


def test_already_mounted(acafs, mounts):
    mount = mounts()
    refuses(acafs, MOUNT_POINT, "already.*mounted|mounted already", "local#session-1", mount.path)
    (mount / "a").write_text("unharmed")


def test_a_mount_whose_daemon_died(acafs, mounts):
    """A dead mount point says what it is and how to free it."""
    mount = mounts()
    mount.process.kill()
    mount.process.wait()
    refuses(acafs, MOUNT_POINT, "umount", "local#session-1", mount.path)
    mount.kill()


def test_unreachable_pools(acafs):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
        fast = ["-o", "timeout-connect=2,timeout-read=2,max-retries=0"]
        token = {"ACAFS_TOKEN": "sesame"}
        refuses(acafs, UNREACHABLE, str(port), f"http://127.0.0.1:{port}#session-1", "mnt", *fast, env=token)
        refuses(acafs, UNREACHABLE, "nowhere.invalid", "https://nowhere.invalid/pool#session-1", "mnt", *fast, env=token)
        probe.listen()  # accepts and never answers
        refuses(acafs, UNREACHABLE, str(port), f"http://127.0.0.1:{port}#session-1", "mnt", *fast, env=token)


def test_a_server_that_is_no_pool(acafs, proxy):
    proxy.rule(r".*", fault.answer(200, {"Content-Type": "text/html"}, "<html>Hello</html>"))
    done = acafs(f"{proxy.url}#session-1", "mnt", "-o", "max-retries=0", env={"ACAFS_TOKEN": "sesame"})
    assert done.returncode in (1, UNREACHABLE) and len(done.stderr.splitlines()) == 1, done.stderr


def test_a_wrong_token(acafs, tcp_pool):
    line = refuses(acafs, NOT_ALLOWED, "401", f"{tcp_pool.url}#session-1", "mnt", env={"ACAFS_TOKEN": "wrong-sesame"})
    assert "wrong-sesame" not in line


def test_not_allowed(acafs, proxy, tcp_pool):
    proxy.rule(r".*", fault.answer(403, {}, '{"error":{"code":"Forbidden","message":"no role"}}'))
    line = refuses(acafs, NOT_ALLOWED, "403", f"{proxy.url}#session-1", "mnt", env={"ACAFS_TOKEN": tcp_pool.token})
    assert "Session Executor" in line and tcp_pool.token not in line


@pytest.mark.skipif(os.getuid() != 0, reason="hides /dev/fuse in a mount namespace")
def test_a_machine_without_fuse(pool, tmp_path):
    (tmp_path / "mnt").mkdir()
    hide = "mount -t tmpfs none /dev && mknod -m 666 /dev/null c 1 3 && mknod -m 666 /dev/urandom c 1 9"
    done = process.run(["unshare", "-m", "sh", "-c", f'{hide} && exec "$@"', "sh",
                        process.ACAFS, "local#session-1", tmp_path / "mnt"], check=False,
                       env=process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull,
                                               XDG_RUNTIME_DIR=pool.directory))
    assert done.returncode == 1 and re.search(r"modprobe fuse|/dev/fuse", done.stderr), done.stderr
