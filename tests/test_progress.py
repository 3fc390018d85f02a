"""Whoever waits for the session is told for what, and how it goes: on a terminal by a line that is drawn over, elsewhere
by a line of the log now and then."""

import contextlib
import os
import re
import signal
import subprocess
import time

import pytest

from support import proxy as fault
from support.process import ACAFS, ACARUN, Terminal, environment, run
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(90)]

SIZE = 3_000_000
BAR = r"\[#*-*\] [\d.]+ \w+ of 2\.9 MiB"


@pytest.fixture
def stalled(mounts, proxy):
    """A mount with a file that the pool does not take."""
    mount = mounts(proxy=proxy, options=["unmount-timeout=60"])
    proxy.freeze()
    (mount / "big").write_bytes(os.urandom(SIZE))
    yield mount
    proxy.clear()
    if not mount.killed:
        mount.sync()


@pytest.fixture
def on_terminal():
    started = []

    def start(arguments, **options):
        started.append(Terminal(arguments, **options))
        return started[-1]
    yield start
    for terminal in started:
        terminal.close()


def test_sync_tells_a_log_what_it_waits_for(stalled, proxy, tmp_path):
    log = tmp_path / "sync.log"
    with open(log, "w") as sink:
        process = subprocess.Popen([ACAFS, "sync", stalled.path], stderr=sink, env=environment())
    try:
        wait_for(log.read_text, 30)
        assert re.fullmatch(r"acafs: waiting for the session to have 1 file \(2\.9 MiB\)(: .*)?\n", log.read_text())
        proxy.thaw()
        assert process.wait(40) == 0
        assert len(log.read_text().splitlines()) <= 2  # rarely
    finally:
        process.kill()
        process.wait(10)


def test_sync_is_silent_where_all_is_there(mounts):
    mount = mounts()
    (mount / "a").write_text("a")
    done = run([ACAFS, "sync", mount], env=environment())
    assert (done.stdout, done.stderr) == ("", "")


def test_sync_draws_on_a_terminal(stalled, proxy, on_terminal):
    sync = on_terminal([ACAFS, "sync", stalled.path], env=environment())
    wait_for(lambda: re.search(rf"\racafs: {BAR}.*, 1 file", sync.said()), 30)
    wait_for(lambda: re.search(r"1 file: (nothing moves for|the pool does not answer)", sync.said()), 30)
    assert "\n" not in sync.said()
    proxy.thaw()
    assert sync.process.wait(40) == 0
    assert sync.said().endswith("\r\x1b[K")


def test_the_bar_moves_within_a_file(mounts, proxy, on_terminal):
    """Though that is there as a whole or not at all."""
    mount = mounts(proxy=proxy)
    arrived = proxy.rule("POST files", slowly(5_000_000))
    (mount / "big").write_bytes(os.urandom(40_000_000))
    sync = on_terminal([ACAFS, "sync", mount.path], env=environment())
    wait_for(lambda: len(set(re.findall(r"\[#*-*\] [\d.]+ MiB of 38\.1 MiB", sync.said()))) >= 4, 60)
    assert re.search(r" MiB, [\d.]+ \w+/s, 1 file", sync.said())
    assert arrived.used == 1
    assert sync.process.wait(60) == 0


def slowly(bytes_per_second):
    """Takes the request's body at that speed."""
    def act(exchange):
        receive = exchange._receive

        def slow():
            data = receive()
            exchange.pause(len(data) / bytes_per_second)
            return data
        exchange._receive = slow
        exchange.forward()
    return act


@pytest.mark.parametrize("sign", [signal.SIGINT, signal.SIGTERM])
def test_sync_ends_at_once_when_told(stalled, sign):
    took = []
    while len(took) < 3 and min(took, default=9) > 0.3:
        process = subprocess.Popen([ACAFS, "sync", stalled.path], stderr=subprocess.DEVNULL, env=environment())
        wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1, 20)
        began = time.monotonic()
        process.send_signal(sign)
        assert process.wait(20) == -sign
        took.append(time.monotonic() - began)
    assert min(took) < 0.3


def test_sync_of_a_mount_that_ends(stalled, proxy):
    process = subprocess.Popen([ACAFS, "sync", stalled.path], stderr=subprocess.PIPE, text=True, env=environment())
    wait_for(lambda: len(os.listdir(f"/proc/{process.pid}/task")) > 1, 20)
    stalled.unmount("SIGTERM", deadline=None)
    wait_for(lambda: "ending" in stalled.said(), 10)
    assert stalled.unmount("SIGTERM") == 1
    assert process.wait(20) == 1
    assert "not connected" in process.stderr.read()
    stalled.kill()


def test_a_drain_draws_on_a_terminal(mounts, proxy, on_terminal):
    mount = mounts(proxy=proxy, start=False)
    mount.path.mkdir()
    daemon = on_terminal(mount.command(), env=mount.env)
    with contextlib.ExitStack() as ended:
        ended.callback(mount.kill)
        wait_for(lambda: "mounted on" in daemon.said(), 20)
        proxy.freeze()
        (mount / "big").write_bytes(os.urandom(SIZE))
        daemon.process.send_signal(signal.SIGTERM)
        wait_for(lambda: re.search(rf"\racafs: {BAR}.*, 1 file", daemon.said()), 30)
        proxy.thaw()
        assert daemon.process.wait(40) == 0
        assert daemon.said().endswith("\r\x1b[K")


def test_acarun_draws_the_upload_of_a_large_script(proxy, tcp_pool, session, tmp_path, on_terminal):
    script = tmp_path / "large.py"
    script.write_bytes(b"print('ran')\n" + b"#" * 20_000_000)
    proxy.rule("POST files", slowly(4_000_000))
    acarun = on_terminal([ACARUN, "-p", proxy.url, "-s", session, script],
                         env=environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, ACAFS_TOKEN=tcp_pool.token),
                         stdout=subprocess.PIPE)
    wait_for(lambda: re.search(r"\racarun: \[#*-*\] [\d.]+ MiB of 19\.1 MiB", acarun.said()), 30)
    assert acarun.process.stdout.read() == b"ran\n"
    acarun.process.stdout.close()
    assert acarun.process.wait(30) == 0
    assert acarun.said().endswith("\r\x1b[K")


def test_many_scripts_show_what_moves(proxy, tcp_pool, tmp_path, on_terminal):
    (tmp_path / "data").write_bytes(os.urandom(8_000_000))
    (tmp_path / "a.py").write_text("open('made', 'wb').write(open('data', 'rb').read())")
    proxy.rule("POST files", slowly(4_000_000))
    acarun = on_terminal([ACARUN, "-p", proxy.url, "-j", "1", "--spread", "--with", "data", "--fetch", "made", "a.py"],
                         env=environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, ACAFS_TOKEN=tcp_pool.token), cwd=tmp_path)
    wait_for(lambda: re.search(r"0 of 1 done, 0 failed, [\d.]+ MiB sent \([\d.]+ \w+/s\)", acarun.said()), 30)
    assert acarun.process.wait(60) == 0
    assert (tmp_path / "a.py.files/made").read_bytes() == (tmp_path / "data").read_bytes()
