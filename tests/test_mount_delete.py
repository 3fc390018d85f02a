"""Files are deleted here at once and in the session behind that: nothing that is gone here comes back by itself,
nothing of anybody else's goes, and whoever waits for the session is told what became of it."""

import contextlib
import errno
import os
import shutil
import threading
import time

import pytest

from support import proxy as fault
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

DELETE, LOOK, UPLOAD = r"DELETE files/\{name\}", r"GET files/\{name\}", r"POST files"


@pytest.fixture
def remount(mounts, proxy, session, tcp_pool, tmp_path):
    """Mounts the session through the proxy, again and again with the same cache and place."""
    def make(*options, attr=60, **env):
        return mounts(proxy=proxy, session=session, cache=tmp_path / "cache", at=tmp_path / "mnt",
                      options=[f"attr-timeout={attr}", "timeout-connect=2", "max-retries=0", *options], env=env)
    return make


@pytest.fixture
def gate(proxy):
    """Deletes do not go through before gate.set()."""
    event = threading.Event()

    def wait(exchange):
        event.wait(60)
        exchange.forward()
    event.rule = proxy.rule(DELETE, wait)
    yield event
    event.set()


def fill(pool, session, *names, content=b"x"):
    for path in names:
        folder, _, name = path.rpartition("/")
        pool.write(session, name, content, path=folder or None)


def fsync(path):
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def send_into(folder):
    """From then on the mount trusts this pool's file calls with names in folders."""
    (folder / "own").write_bytes(b"x")
    fsync(folder / "own")


def deleting(mount):
    return {entry["path"] for entry in mount.status()["deleting"]}


def refuses(error, call, *arguments):
    with pytest.raises(OSError) as raised:
        call(*arguments)
    assert raised.value.errno == error


# --- behind

def test_it_is_answered_before_the_session_is_asked(remount, tcp_pool, session, gate):
    fill(tcp_pool, session, "a", "b")
    mount = remount()
    os.unlink(mount / "a")
    assert os.listdir(mount) == ["b"]
    refuses(errno.ENOENT, os.stat, mount / "a")
    assert mount.control("refresh") and os.listdir(mount) == ["b"]
    assert deleting(mount) == {"a"} and mount.status()["pending_deletes"] == 1
    assert "acafs_pending_deletes 1\n" in (mount / ".acafs/metrics").read_text()
    assert tcp_pool.names(session) == {"a", "b"}
    gate.set()
    mount.sync()
    assert tcp_pool.names(session) == {"b"} and deleting(mount) == set()
    assert os.listdir(mount) == ["b"]


def test_what_was_just_listed_costs_one_request(remount, proxy, tcp_pool, session):
    names = [f"f{n}" for n in range(20)]
    fill(tcp_pool, session, *names)
    mount = remount()
    assert len(os.listdir(mount)) == 20
    for name in names:
        os.unlink(mount / name)
    mount.sync()
    assert proxy.count(DELETE) == 20 and proxy.count(LOOK) == 0
    assert tcp_pool.names(session) == set()


def test_many_go_side_by_side(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, *[f"f{n}" for n in range(12)])
    mount = remount("max-transfers=3")
    most, under_way = [], []

    def slow(exchange):
        under_way.append(1)
        most.append(len(under_way))
        exchange.pause(.05)
        exchange.forward()
        under_way.pop()
    proxy.rule(DELETE, slow)
    for name in os.listdir(mount):
        os.unlink(mount / name)
    mount.sync()
    assert 2 <= max(most) <= 3
    assert tcp_pool.names(session) == set()


def test_many_that_were_seen_long_ago_are_listed_once(remount, proxy, tcp_pool, session):
    names = [f"f{n}" for n in range(100)]
    fill(tcp_pool, session, "kept", *names)
    mount = remount()
    os.listdir(mount)
    proxy.down()
    for name in names:
        os.unlink(mount / name)
    mount.kill()
    tcp_pool.write(session, "f7", b"by somebody else")
    proxy.up()
    proxy.requests.clear()
    mount = remount()
    mount.sync()
    assert proxy.count(DELETE) == 99 and proxy.count(LOOK) == 1
    assert tcp_pool.names(session) == {"kept", "f7"}
    wait_for(lambda: sorted(os.listdir(mount)) == ["f7", "kept"], 10)


def test_a_directory_goes_after_what_was_in_it(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, *[f"d/e/f{n}" for n in range(40)], "d/a", "b")
    mount = remount()
    send_into(mount / "d")
    proxy.rule(DELETE, fault.delay(.1))
    shutil.rmtree(mount / "d")
    assert proxy.count(DELETE) == 42
    assert os.listdir(mount) == ["b"]
    assert tcp_pool.run(session, "import os; os.listdir('/mnt/data')") == ["b"]


def test_with_sync_the_answer_waits(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a", "b")
    mount = remount("sync")
    os.unlink(mount / "a")
    assert tcp_pool.names(session) == {"b"}
    rule = proxy.rule(DELETE, fault.answer(503))
    refuses(errno.EIO, os.unlink, mount / "b")
    proxy.drop(rule)
    mount.sync()
    assert tcp_pool.names(session) == set()


def test_what_is_open_stays_readable(remount, tcp_pool, session, gate):
    fill(tcp_pool, session, "a", content=b"content" * 1000)
    mount = remount()
    with open(mount / "a", "rb") as file:
        os.unlink(mount / "a")
        assert file.read() == b"content" * 1000
    gate.set()
    mount.sync()


# --- the same name again

def test_a_new_file_replaces_what_is_not_deleted_yet(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a")
    mount = remount()
    proxy.down()
    os.unlink(mount / "a")
    (mount / "a").write_bytes(b"new")
    proxy.up()
    mount.sync()
    assert tcp_pool.read(session, "a") == b"new" and os.listdir(mount) == ["a"]
    assert mount.status()["conflicts"] == 0


@pytest.mark.parametrize("how", ["written", "renamed"])
def test_a_new_file_waits_while_the_old_one_is_deleted(remount, proxy, tcp_pool, session, gate, how):
    fill(tcp_pool, session, "a")
    mount = remount()
    os.unlink(mount / "a")
    wait_for(lambda: proxy.count(DELETE) == 1, 10)
    if how == "written":
        (mount / "a").write_bytes(b"new")
    else:
        (mount / "b").write_bytes(b"new")
        os.rename(mount / "b", mount / "a")
    assert (mount / "a").read_bytes() == b"new" and os.listdir(mount) == ["a"]
    (mount / "other").write_bytes(b"other")
    fsync(mount / "other")
    assert tcp_pool.read(session, "a") == b"x"
    gate.set()
    mount.sync()
    assert {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)} == \
        {"a": b"new", "other": b"other"}
    assert mount.status()["conflicts"] == 0 and sorted(os.listdir(mount)) == ["a", "other"]


def test_a_delete_that_is_carried_out_late_takes_no_new_file(remount, proxy, tcp_pool, session):
    """Its answer never came, and it waits somewhere on the way when a new file has the name."""
    fill(tcp_pool, session, "a")
    mount = remount("timeout-read=1")
    late = threading.Event()
    done = threading.Event()

    def hold(exchange):
        late.wait(60)
        tcp_pool.delete(session, "a")
        done.set()
    rule = proxy.rule(DELETE, hold, times=1)
    os.unlink(mount / "a")
    wait_for(lambda: any(entry["error"] for entry in mount.status()["deleting"]), 20)
    proxy.down()
    (mount / "a").write_bytes(b"new")
    refuses(errno.EHOSTUNREACH, fsync, mount / "a")
    late.set()
    assert done.wait(20) and rule.used == 1
    proxy.up()
    fsync(mount / "a")
    mount.sync()
    assert tcp_pool.read(session, "a") == b"new"
    kinds = [str(request) for request in proxy.requests if request.path.endswith(("/a", "files"))
             and request.method in ("DELETE", "POST")]
    assert kinds.index("POST files") > kinds.index("DELETE files/{name}"), kinds


def test_the_new_file_is_deleted_as_well(remount, proxy, tcp_pool, session, gate):
    fill(tcp_pool, session, "a", "b")
    mount = remount()
    os.unlink(mount / "a")
    os.unlink(mount / "b")
    wait_for(lambda: proxy.count(DELETE) == 2, 10)
    for name in ("a", "b"):
        (mount / name).write_bytes(b"new")
    os.unlink(mount / "a")
    os.rename(mount / "b", mount / "c")
    assert os.listdir(mount) == ["c"]
    gate.set()
    mount.sync()
    assert {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)} == {"c": b"new"}


def test_a_file_that_the_server_renames_waits(remount, proxy, tcp_pool, session, gate):
    """What is being deleted is not what has the name then."""
    fill(tcp_pool, session, "a", "b")
    mount = remount()
    os.unlink(mount / "a")
    wait_for(lambda: proxy.count(DELETE) == 1, 10)
    (mount / "a").write_bytes(b"new")
    os.unlink(mount / "a")
    (mount / "a").write_bytes(b"newer")
    renamer = threading.Thread(target=os.rename, args=(mount / "b", mount / "a"))
    renamer.start()
    renamer.join(.5)
    assert renamer.is_alive() and tcp_pool.names(session) == {"a", "b"}
    gate.set()
    renamer.join(20)
    mount.sync()
    assert {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)} == {"a": b"x"}
    assert os.listdir(mount) == ["a"] and (mount / "a").read_bytes() == b"x"


def test_an_unfinished_new_file_brings_the_old_one_not_back(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a", "b")
    mount = remount()
    proxy.down()
    os.unlink(mount / "a")
    handle = os.open(mount / "a", os.O_CREAT | os.O_WRONLY)
    os.fchmod(handle, 0o600)
    mount.kill()
    with contextlib.suppress(OSError):
        os.close(handle)
    proxy.up()
    again = remount()
    assert os.listdir(again) == ["b"]
    again.sync()
    assert tcp_pool.names(session) == {"b"}


def test_what_several_saves_leave_is_not_forgotten(remount, proxy, tcp_pool, session):
    """The old copy waited for a file that is gone by now when a new one left its name again."""
    mount = remount()
    held = threading.Event()

    def hold(exchange):
        held.wait(60)
        exchange.forward()
    proxy.rule(UPLOAD, hold, times=1)
    (mount / "tmp").write_bytes(b"first")
    wait_for(lambda: proxy.count(UPLOAD) == 1, 10)
    os.rename(mount / "tmp", mount / "a")
    os.unlink(mount / "a")
    (mount / "tmp").write_bytes(b"second")
    os.rename(mount / "tmp", mount / "a")
    mount.kill()
    held.set()
    wait_for(lambda: proxy.busy == 0, 20)
    again = remount()
    assert os.listdir(again) == ["a"]
    again.sync()
    assert {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)} == {"a": b"second"}


def test_a_directory_of_that_name_waits(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a", "b", "d/x")
    mount = remount()
    proxy.rule(DELETE, fault.delay(.3))
    os.unlink(mount / "a")
    os.mkdir(mount / "a")
    os.unlink(mount / "b")
    os.rename(mount / "d", mount / "b")
    assert sorted(tcp_pool.run(session, "import os; os.listdir('/mnt/data')")) == ["a", "b"]
    assert (mount / "b/x").read_bytes() == b"x"


def test_a_directory_is_renamed_meanwhile(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, *[f"d/f{n}" for n in range(20)])
    mount = remount("max-transfers=2")
    send_into(mount / "d")
    proxy.rule(DELETE, fault.delay(.05))
    for n in range(20):
        os.unlink(mount / f"d/f{n}")
    os.rename(mount / "d", mount / "e")
    assert os.listdir(mount / "e") == ["own"]
    mount.sync()
    assert tcp_pool.run(session, "import os; os.listdir('/mnt/data/e')") == ["own"]
    assert os.listdir(mount) == ["e"]


# --- not ours

def test_what_somebody_else_changed_stays(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a", "b", "c")
    mount = remount(attr=0)
    os.listdir(mount)
    proxy.down()
    for name in ("a", "b", "c"):
        os.unlink(mount / name)
    tcp_pool.write(session, "a", b"somebody else's")
    tcp_pool.delete(session, "b")
    tcp_pool.run(session, "import os; os.remove('c'); os.makedirs('c/d'); open('c/d/e', 'w').close()")
    proxy.up()
    mount.sync()
    assert (mount / "a").read_bytes() == b"somebody else's"
    assert sorted(os.listdir(mount)) == ["a", "c"] and os.listdir(mount / "c/d") == ["e"]
    assert "a: changed by somebody else" in mount.said() and "b: changed" not in mount.said()


def test_what_a_listing_shows_changed_is_looked_at(remount, proxy, tcp_pool, session):
    """The version that was deleted here was seen a moment ago, and another one since."""
    fill(tcp_pool, session, "a", "d")
    mount = remount()
    os.listdir(mount)
    proxy.down()
    os.unlink(mount / "a")
    os.unlink(mount / "d")
    wait_for(lambda: mount.status()["away"], 10)
    tcp_pool.write(session, "a", b"somebody else's")
    tcp_pool.run(session, "import os; os.remove('d'); os.mkdir('d'); open('d/e', 'w').close()")
    deletes = proxy.rule(DELETE, fault.answer(503))
    proxy.up()
    mount.control("refresh")
    proxy.drop(deletes)
    mount.sync()
    assert tcp_pool.read(session, "a") == b"somebody else's"
    assert tcp_pool.run(session, "import os; os.listdir('/mnt/data/d')") == ["e"]


# --- the pool is away, or does not want to

def test_the_next_mount_goes_on(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a", "b", "d/c")
    mount = remount("unmount-timeout=5")
    os.listdir(mount / "d")
    proxy.down()
    began = time.monotonic()
    os.unlink(mount / "a")
    os.unlink(mount / "d/c")
    assert time.monotonic() - began < 5
    assert sorted(os.listdir(mount)) == ["b", "d"] and os.listdir(mount / "d") == []
    refuses(errno.EHOSTUNREACH, mount.sync)
    refuses(errno.EHOSTUNREACH, fsync, mount.path)
    refuses(errno.EHOSTUNREACH, os.rmdir, mount / "d")
    assert mount.unmount() == 1
    assert "0 files and 2 deletes stay in the journal" in mount.said().splitlines()[-1]
    proxy.up()
    again = remount()
    assert sorted(os.listdir(again)) == ["b", "d"] and os.listdir(again / "d") == []
    again.sync()
    assert tcp_pool.names(session) == {"b", "d"} and tcp_pool.names(session, "d") == set()
    os.rmdir(again / "d")


def test_it_goes_on_by_itself_when_the_pool_is_back(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, *[f"f{n}" for n in range(50)])
    mount = remount()
    names = os.listdir(mount)
    proxy.down()
    for name in names:
        os.unlink(mount / name)
    wait_for(lambda: mount.status()["away"], 10)
    proxy.up()
    wait_for(lambda: mount.status()["pending_deletes"] == 0, 30)
    assert tcp_pool.names(session) == set()


@pytest.mark.parametrize("way", ["sync", "directory"])
def test_barriers_tell_what_it_failed_with(remount, proxy, tcp_pool, session, way):
    fill(tcp_pool, session, "d/a")
    mount = remount()
    send_into(mount / "d")
    rule = proxy.rule(DELETE, fault.answer(503))
    os.unlink(mount / "d/a")
    barrier = mount.sync if way == "sync" else lambda: fsync(mount / "d")
    refuses(errno.EIO, barrier)
    assert mount.status()["deleting"][0]["error"] == os.strerror(errno.EIO)
    proxy.drop(rule)
    barrier()
    assert tcp_pool.names(session, "d") == {"own"}


def test_what_the_pool_refuses_comes_back(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a", "b")
    mount = remount()
    rule = proxy.rule(DELETE, fault.answer(403), times=1)
    os.unlink(mount / "a")
    wait_for(lambda: sorted(os.listdir(mount)) == ["a", "b"], 10)
    assert rule.used == 1 and mount.status()["pending_deletes"] == 0
    assert "a: the pool refuses to delete it" in mount.said()
    refuses(errno.EACCES, mount.sync)
    mount.sync()
    assert (mount / "a").read_bytes() == b"x"
    os.unlink(mount / "a")
    mount.sync()
    assert tcp_pool.names(session) == {"b"}


def test_a_barrier_that_waits_hears_of_a_refusal(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a")
    mount = remount()
    asked = threading.Event()

    def refuse(exchange):
        asked.set()
        exchange.pause(.3)
        fault.answer(403)(exchange)
    proxy.rule(DELETE, refuse, times=1)
    os.unlink(mount / "a")
    assert asked.wait(10)
    refuses(errno.EACCES, mount.sync)
    mount.sync()


def test_a_name_that_the_file_calls_deny_goes_all_the_same(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "a")
    mount = remount()
    proxy.rule(f"{DELETE}|{LOOK}", fault.answer(404))
    os.unlink(mount / "a")
    mount.sync()
    assert tcp_pool.names(session) == set()


# --- jobs

def test_a_script_does_not_see_it(remount, proxy, tcp_pool, session):
    fill(tcp_pool, session, "data.csv", "other.csv")
    mount = remount()
    (mount / "x.py").write_text("import os\nsorted(os.listdir('.'))\n")
    proxy.rule(DELETE, fault.delay(.5))
    os.unlink(mount / "data.csv")
    answer = mount.control("run x.py")
    assert "data.csv" not in answer["value"] and "other.csv" in answer["value"], answer
