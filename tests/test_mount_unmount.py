"""umount.fuse.acafs, as umount(8) calls it for `umount -a` and for systemd: it returns when all is in the session."""

import os
import signal
import subprocess

import pytest

from support import process
from support.mount import mounted

pytestmark = pytest.mark.session


@pytest.fixture
def unmounting(tmp_path):
    """Starts it; it is ended with the test."""
    helper = tmp_path / "umount.fuse.acafs"
    helper.symlink_to(process.ACAFS)
    started = []

    def start(*arguments):
        started.append(subprocess.Popen([helper, *map(str, arguments)], stdin=subprocess.DEVNULL, text=True,
                                        stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=process.environment()))
        return started[-1]
    yield start
    for it in started:
        it.kill()
        it.communicate()


def test_it_waits_for_what_is_pending(mounts, unmounting, proxy):
    """The pool does not answer: the mount is gone at once, and the helper stays until the file is up."""
    mount = mounts(proxy=proxy, options=["unmount-timeout=120"])
    proxy.freeze()
    (mount / "late").write_text("text")
    helper = unmounting(mount, "-n")
    assert helper.stderr.readline() == f"acafs: {mount} is unmounted; waiting until what is pending is in the session\n"
    assert not mounted(mount) and helper.poll() is None and mount.running()
    proxy.thaw()
    assert helper.wait(60) == 0
    assert mount.process.wait(20) == 0
    assert mount.pool.read(mount.session, "late") == b"text"


def test_it_waits_no_longer_than_the_daemon(mounts, unmounting, proxy):
    mount = mounts(proxy=proxy, options=["unmount-timeout=2"])
    proxy.freeze()
    (mount / "late").write_text("text")
    assert unmounting(mount).wait(60) == 0
    assert mount.process.wait(1) == 1, "the daemon ended first, with a file in its journal"
    assert "stay in the journal" in mount.said()


@pytest.mark.parametrize("flag", ["-l", "-f", "-nl"])
def test_who_is_in_a_hurry_waits_for_nothing(mounts, unmounting, proxy, flag):
    if flag == "-f" and os.getuid():
        pytest.skip("only root may use force")
    mount = mounts(proxy=proxy, options=["unmount-timeout=120"])
    proxy.freeze()
    (mount / "late").write_text("text")
    helper = unmounting(mount, flag)
    assert helper.wait(60) == 0
    assert not mounted(mount) and mount.running()
    proxy.thaw()
    assert mount.process.wait(60) == 0


def test_a_busy_mount_stays(mount, unmounting):
    with open(mount / "file", "w"):
        helper = unmounting(mount)
        assert helper.wait(60) == 32
        assert "busy" in helper.stderr.read() and mounted(mount)


def test_a_daemon_that_hangs_does_not_hang_it(mount, unmounting):
    os.kill(mount.pid, signal.SIGSTOP)
    try:
        assert unmounting(mount).wait(60) == 0
        assert not mounted(mount)
    finally:
        os.kill(mount.pid, signal.SIGCONT)
    assert mount.process.wait(60) == 0


def test_where_nothing_of_ours_is_mounted(unmounting, tmp_path):
    helper = unmounting(tmp_path)
    assert helper.wait(60) == 32 and "not mounted" in helper.stderr.read()
    helper = unmounting("-n")
    assert helper.wait(60) == 64 and helper.stderr.read() == "acafs: usage: umount.fuse.acafs DIR [-fl]\n"
