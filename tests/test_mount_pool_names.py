"""Names in a whole pool that are no sessions, and the settings of those that are."""

import errno
import json
import os
import stat
import threading
from pathlib import Path

import pytest

from support import process
from support import proxy as fault
from support.wait import wait_for
from support.whole import allocate, listed, opened, refused

pytestmark = pytest.mark.session

# What programs look for wherever they come.
PROBES = [".git", ".hg", ".Trash", ".Trash-1000", ".hidden", ".directory", "autorun.inf", "desktop.ini", "HEAD",
          ".xdg-volume-info", "lost+found", "with blank", "abc", "x" * 129, "é-a-name"]


def asked(proxy):
    return [str(request) for request in proxy.requests]


def test_names_that_no_session_has_ask_nothing(whole, proxy):
    mount = whole(proxy=proxy)
    proxy.clear()
    for probe in PROBES:
        if probe != "HEAD":
            refused(errno.ENOENT, os.stat, mount / probe)
    assert asked(proxy) == []
    refused(errno.ENAMETOOLONG, os.stat, mount / ("x" * 256))


def test_asking_for_a_name_makes_no_session(whole, proxy, tcp_pool, name):
    mount = whole(proxy=proxy, options=["attr-timeout=60"])
    before = listed(tcp_pool)
    proxy.clear()
    for _ in range(3):
        refused(errno.ENOENT, os.stat, mount / name)
        refused(errno.ENOENT, os.stat, mount / "BDMV")
    assert asked(proxy) == ["GET session"] * 3, "what asking does is found out once, and what is not is remembered"
    process.run(["bash", "-c", f"compgen -f {mount}/{name}; ls {mount}/{name}-x; git -C {mount} status"], check=False)
    assert listed(tcp_pool) <= before and opened(mount) == 0
    os.mkdir(mount / name)
    assert listed(tcp_pool) >= {name}


def test_a_pool_that_makes_one_of_each_name_that_is_asked_for(whole, proxy, tcp_pool, name):
    """Then its list is asked, and the one that finding that out made is deleted."""
    allocate(tcp_pool, name)
    rule = proxy.rule("GET session", fault.answer(200, {"Content-Type": "application/json"},
                                                  json.dumps({"identifier": "any", "etag": "e"}).encode()))
    mount = whole(proxy=proxy, options=["attr-timeout=60"])
    refused(errno.ENOENT, os.stat, mount / (name + "-none"))
    refused(errno.ENOENT, os.stat, mount / (name + "-neither"))
    assert rule.used == 1 and proxy.count("DELETE session") == 1
    allocate(tcp_pool, name + "-later")
    assert os.listdir(mount / (name + "-later")) == []
    os.mkdir(mount / (name + "-made"))
    assert {name, name + "-made"} <= listed(tcp_pool)
    assert mount.said().count("its list is asked instead") == 1


def test_a_name_that_was_not_there_and_came(whole, tcp_pool, name):
    mount = whole(options=["attr-timeout=1"])
    refused(errno.ENOENT, os.stat, mount / name)
    allocate(tcp_pool, name)
    wait_for(lambda: name in os.listdir(mount), 20)
    assert stat.S_ISDIR(os.stat(mount / name).st_mode), "the list says so, whatever was said before"


def test_a_list_of_many_pages(whole, proxy, own_pool):
    pool = own_pool(tcp=True, options=["--max-sessions", "800"])
    for i in range(750):
        allocate(pool, f"session-{i:03}")
    mount = whole(pool=pool)
    assert len(os.listdir(mount)) == 750
    assert pool.request("GET", "listSessions").json()["nextLink"], "there was more than one"


@pytest.mark.parametrize("status", [404, 501])
def test_a_pool_without_a_list(whole, proxy, tcp_pool, name, status):
    allocate(tcp_pool, name)
    proxy.rule("(GET|POST) listSessions", fault.answer(status))
    mount = whole(proxy=proxy)
    assert os.listdir(mount) == []
    refused(errno.ENOENT, os.stat, mount / (name + "-none"))
    (mount / name / "a.txt").write_text("by name")
    assert os.listdir(mount) == [name]
    os.mkdir(mount / (name + "-made"))
    assert set(os.listdir(mount)) == {name, name + "-made"}
    mount.sync()
    assert tcp_pool.read(name, "a.txt") == b"by name"


def test_as_a_unit_mounts_it(whole, name):
    """acafs@pool.service with a drop-in: the instance is no session then."""
    mount = whole(start=False, env={"ACAFS_ALL": "yes", "ACAFS_SESSION": "pool"})
    mount.options.remove("all")
    mount.env["ACAFS_POOL_ENDPOINT"] = mount.source
    mount.source = None
    mount.start()
    os.mkdir(mount / name)
    assert "pool" not in os.listdir(mount) and name in os.listdir(mount)


def test_what_a_pool_that_tells_nothing_is_asked_for_is_not_shown(whole, proxy, name):
    for kind in ("(GET|POST) listSessions", "GET session", r"POST \.management/{name}"):
        proxy.rule(kind, fault.answer(404))
    mount = whole(proxy=proxy)
    assert stat.S_ISDIR(os.stat(mount / "BDMV").st_mode) and os.stat(mount / name)
    assert os.listdir(mount) == [] and opened(mount) == 0
    (mount / name / "a.txt").write_text("one")
    assert os.listdir(mount) == [name]
    mount.sync()


def test_a_list_that_was_asked_before_a_session_was_deleted(whole, proxy, tcp_pool, name):
    """By somebody who gave up waiting for it."""
    mount = whole(proxy=proxy, options=["attr-timeout=1"])
    os.mkdir(mount / name)
    held, go_on = threading.Event(), threading.Event()

    def hold(exchange):
        def relay(data):
            held.set()
            go_on.wait(20)
            exchange.send(data)
        exchange.forward(relay)
    proxy.rule("GET listSessions", hold, times=1)
    try:
        wait_for(lambda: process.run(["timeout", "-s", "KILL", "0.3", "ls", mount], check=False) and held.is_set(), 20)
        os.rmdir(mount / name)
    finally:
        go_on.set()
    assert name not in os.listdir(mount) and name not in listed(tcp_pool)


def test_one_that_was_deleted_before_a_crash_could_tell(whole, tcp_pool, tmp_path, name):
    """It is not shown for having been open once."""
    other = name + "-other"
    mount = whole(cache=tmp_path / "cache")
    for one in (name, other):
        os.mkdir(mount / one)
        (mount / one / "a.txt").write_text("sent")
    mount.sync()
    mount.kill()
    assert tcp_pool.request("DELETE", "session", session=name).status == 204
    again = whole(cache=tmp_path / "cache")
    assert other in os.listdir(again) and name not in os.listdir(again)
    refused(errno.ENOENT, os.stat, again / name)
    assert name not in listed(tcp_pool)


# --- [session NAME]

CONFIG = """
[mount]
umask = 027
[session {name}-ro]
ro = yes
symlinks = follow
umask = 077
uid = 1234
attr-timeout = 0
[session {name}-run]
autorun = *.py
cache-size = 3M
max-retries = 0
[session {name}-force]
force = yes
restore = yes
"""


@pytest.fixture
def settings(whole, tcp_pool, name):
    for kind in ("ro", "run", "force", "other"):
        allocate(tcp_pool, f"{name}-{kind}")
    tcp_pool.write(name + "-ro", "a.txt", b"one")
    return whole(config=CONFIG.format(name=name))


def test_settings_of_one_session(settings, name):
    assert oct(os.stat(settings / f"{name}-ro").st_mode)[-3:] == "700"
    assert oct(os.stat(settings / f"{name}-other").st_mode)[-3:] == "750"
    assert os.stat(settings / f"{name}-ro").st_uid == 1234 != os.stat(settings / f"{name}-other").st_uid
    assert opened(settings) == 0
    assert oct(os.stat(settings / f"{name}-ro/a.txt").st_mode)[-3:] == "600"
    limits = {kind: json.loads((settings / f"{name}-{kind}/.acafs/status").read_text())["cache"]["limit"]
              for kind in ("run", "other")}
    assert limits == {"run": 3 << 20, "other": 2 << 30}
    assert "max-retries is the same for all sessions" in settings.said()
    assert settings.said().count("the same for all") == 1 and name not in settings.said()


def test_one_session_read_only(settings, tcp_pool, name):
    top = settings / f"{name}-ro"
    assert (top / "a.txt").read_text() == "one"
    for action in ((os.open, top / "b.txt", os.O_CREAT | os.O_WRONLY), (os.open, top / "a.txt", os.O_WRONLY),
                   (os.truncate, top / "a.txt", 0), (os.unlink, top / "a.txt"), (os.mkdir, top / "sub"),
                   (os.rename, top / "a.txt", top / "b.txt"), (os.symlink, "a.txt", top / "link"),
                   (os.mkfifo, top / "fifo"), (os.chmod, top / "a.txt", 0o600), (os.rmdir, top)):
        refused(errno.EROFS, *action)
    assert tcp_pool.names(top.name) == {"a.txt"}
    (settings / f"{name}-other/a.txt").write_text("may be written")


def test_symlinks_of_one_session(settings, tcp_pool, name):
    for kind in ("ro", "other"):
        tcp_pool.run(f"{name}-{kind}", "import os; os.symlink('../elsewhere', '/mnt/data/link')")
    assert os.readlink(settings / f"{name}-ro/link") == "../elsewhere"
    refused(errno.EPERM, os.readlink, settings / f"{name}-other/link")


def test_one_session_with_autorun(settings, name):
    for kind in ("run", "other"):
        (settings / f"{name}-{kind}/a.py").write_text("print('ran')\n")
    out = settings / f"{name}-run/a.py.stdout"
    wait_for(lambda: out.exists() and out.read_text() == "ran\n", 30)
    assert not Path(settings / f"{name}-other/a.py.stdout").exists()


def test_one_session_that_may_be_deleted_as_it_is(settings, tcp_pool, name):
    for kind in ("force", "other"):
        (settings / f"{name}-{kind}/a.txt").write_text("one")
    os.rmdir(settings / f"{name}-force")
    refused(errno.ENOTEMPTY, os.rmdir, settings / f"{name}-other")
    assert name + "-force" not in listed(tcp_pool) and name + "-other" in listed(tcp_pool)
