"""Two parties change a file of a session: nobody's version is lost."""

import ctypes
import os
import re

import pytest

from support import proxy as fault
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(60)]

UPLOAD = r"POST files"


@pytest.fixture
def remount(mounts, proxy, session, tcp_pool, tmp_path):
    def make(*options, **env):
        return mounts(proxy=proxy, session=session, cache=tmp_path / "cache", at=tmp_path / "mnt", env=env,
                      options=["attr-timeout=1", "timeout-connect=2", "timeout-read=5", "max-retries=0", *options])
    return make


def answer_lost(exchange):
    """The pool has what was sent, and the gateway before it says otherwise."""
    exchange.forward(relay=lambda data: None)
    exchange.send(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 0\r\n\r\n")


def contents(pool, session):
    return {name: pool.read(session, name) for name in pool.names(session)}


def conflict_copy(found, name):
    copies = [other for other in found if re.fullmatch(re.escape(name) + r"\.conflict-\d{8}T\d{6}Z", other)]
    assert len(copies) == 1, found
    return copies[0]


def test_a_file_that_another_changed_is_not_overwritten(remount, tcp_pool, session):
    tcp_pool.write(session, "a", b"first")
    mount = remount()
    handle = os.open(mount / "a", os.O_RDWR)
    assert os.read(handle, 100) == b"first"
    tcp_pool.write(session, "a", b"theirs")
    os.pwrite(handle, b"mine!", 0)
    os.close(handle)
    mount.sync()
    there = contents(tcp_pool, session)
    copy = conflict_copy(there, "a")
    assert there == {"a": b"theirs", copy: b"mine!"}
    assert {name: (mount / name).read_bytes() for name in os.listdir(mount)} == there
    assert mount.status()["conflicts"] == 1
    assert copy in mount.said()


def test_the_same_change_is_no_conflict(remount, tcp_pool, session):
    tcp_pool.write(session, "a", b"first")
    mount = remount()
    handle = os.open(mount / "a", os.O_RDWR)
    tcp_pool.write(session, "a", b"same!")
    os.pwrite(handle, b"same!", 0)
    os.close(handle)
    mount.sync()
    assert contents(tcp_pool, session) == {"a": b"same!"}
    assert mount.status()["conflicts"] == 0


def test_an_upload_whose_answer_was_lost_is_no_conflict(remount, proxy, tcp_pool, session):
    mount = remount()
    (mount / "a").write_text("first")
    mount.sync()
    rule = proxy.rule(UPLOAD, answer_lost, times=1)
    (mount / "a").write_text("second")
    wait_for(lambda: rule.used and "not on the server yet" in mount.said(), 10)
    mount.sync()
    assert contents(tcp_pool, session) == {"a": b"second"}
    assert mount.status()["conflicts"] == 0


def test_nor_is_it_when_the_content_changed_since(remount, proxy, tcp_pool, session):
    mount = remount()
    (mount / "a").write_text("first")
    mount.sync()
    rule = proxy.rule(UPLOAD, answer_lost, times=1)
    (mount / "a").write_text("second")
    wait_for(lambda: rule.used and mount.status()["pending"][0]["error"], 10)
    (mount / "a").write_text("third")
    mount.sync()
    assert contents(tcp_pool, session) == {"a": b"third"}
    assert mount.status()["conflicts"] == 0


def test_a_crash_after_the_upload_is_no_conflict(remount, tcp_pool, session):
    mount = remount(ACAFS_FAULT="upload-done:2")
    (mount / "a").write_text("first")
    mount.sync()
    (mount / "a").write_text("second")
    mount.process.wait(20)
    mount.kill()
    again = remount()
    again.sync()
    assert contents(tcp_pool, session) == {"a": b"second"}
    assert again.status()["conflicts"] == 0


def test_nor_is_a_crash_when_the_content_changed_since(remount, proxy, tcp_pool, session):
    """What was on its way when the mount was killed comes to the pool, and is not the newest."""
    mount = remount()
    rule = proxy.rule(UPLOAD, fault.freeze_body(0))
    (mount / "a").write_text("what is on its way")
    wait_for(lambda: rule.used and "a" in tcp_pool.names(session), 10)
    (mount / "a").write_text("newest")
    mount.kill()
    proxy.clear()
    again = remount()
    assert (again / "a").read_text() == "newest"
    again.sync()
    assert (again / "a").read_text() == "newest"
    assert contents(tcp_pool, session) == {"a": b"newest"}
    assert again.status()["conflicts"] == 0


def test_a_file_that_another_removed_goes_up_again(remount, tcp_pool, session):
    tcp_pool.write(session, "a", b"first")
    mount = remount()
    handle = os.open(mount / "a", os.O_RDWR)
    os.pwrite(handle, b"mine!", 0)
    tcp_pool.delete(session, "a")
    os.close(handle)
    mount.sync()
    assert contents(tcp_pool, session) == {"a": b"mine!"}


def test_a_new_file_whose_name_another_took_meanwhile(remount, tcp_pool, session):
    mount = remount("attr-timeout=60")
    handle = os.open(mount / "a", os.O_CREAT | os.O_WRONLY)
    tcp_pool.write(session, "a", b"theirs")
    mount.control("refresh")
    os.write(handle, b"mine")
    os.close(handle)
    mount.sync()
    there = contents(tcp_pool, session)
    assert there == {"a": b"theirs", conflict_copy(there, "a"): b"mine"}


def exchange(one, other):
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.renameat2(-100, os.fsencode(one), -100, os.fsencode(other), 2):
        raise OSError(ctypes.get_errno(), "renameat2")


def fill_two(mount, proxy, tcp_pool, session):
    """a and b in the session, and content of a that changed while an upload of it may have come there."""
    (mount / "a").write_bytes(b"old")
    (mount / "b").write_bytes(b"b" * 50)
    mount.sync()
    rule = proxy.rule(UPLOAD, fault.answer(503))
    (mount / "a").write_bytes(b"on its way" * 10)
    wait_for(lambda: rule.used, 10)
    (mount / "a").write_bytes(b"new")
    return rule


@pytest.mark.parametrize("step", ["change-intended", "change-made"])
def test_a_crash_in_the_middle_of_an_exchange(remount, proxy, tcp_pool, session, step):
    mount = remount("max-retries=0", ACAFS_FAULT=step)
    fill_two(mount, proxy, tcp_pool, session)
    with pytest.raises(OSError):
        exchange(mount / "a", mount / "b")
    mount.process.wait(20)
    mount.kill()
    proxy.clear()
    again = remount()
    made = step == "change-made"
    wanted = {"b": b"new", "a": b"b" * 50} if made else {"a": b"new", "b": b"b" * 50}
    assert {name: (again / name).read_bytes() for name in os.listdir(again)} == wanted
    again.sync()
    assert contents(tcp_pool, session) == wanted
    assert again.status()["conflicts"] == 0


@pytest.mark.parametrize("how", [exchange, os.rename])
def test_a_rename_whose_answer_was_lost(remount, proxy, tcp_pool, session, how):
    """It was made: neither what was moved to a name nor what is to be uploaded there is lost."""
    mount = remount("max-retries=0")
    rule = fill_two(mount, proxy, tcp_pool, session)
    lost = proxy.rule("POST (executions|code/execute)|GET executions/{id}", fault.cut_after())
    with pytest.raises(OSError):
        how(mount / "b", mount / "a")
    proxy.drop(lost)
    proxy.drop(rule)
    wait_for(lambda: not mount.sync(), 20)
    there = sorted(contents(tcp_pool, session).values())
    assert b"new" in there and b"b" * 50 in there
    mount.control("refresh")
    assert sorted((mount / name).read_bytes() for name in os.listdir(mount)) == there


def end(mount, how):
    """Ends a mount whose pool is away."""
    if how == "killed":
        mount.kill()
    else:
        assert mount.unmount() == 1


@pytest.mark.parametrize("how", ["unmounted", "killed"])
def test_changed_while_we_were_gone(remount, proxy, tcp_pool, session, how):
    tcp_pool.write(session, "a", b"first")
    mount = remount("unmount-timeout=1")
    assert (mount / "a").read_bytes() == b"first"
    proxy.down()
    (mount / "a").write_bytes(b"mine")
    end(mount, how)
    tcp_pool.write(session, "a", b"theirs")
    proxy.up()
    again = remount()
    again.sync()
    there = contents(tcp_pool, session)
    assert there == {"a": b"theirs", conflict_copy(there, "a"): b"mine"}


@pytest.mark.parametrize("how", ["unmounted", "killed"])
def test_changed_while_we_were_gone_and_here_again(remount, proxy, tcp_pool, session, how):
    """What was never sent explains nothing of what is there, though it is not here any more either."""
    tcp_pool.write(session, "a", b"first")
    mount = remount("unmount-timeout=1")
    proxy.down()
    (mount / "a").write_bytes(b"mine, for the first time")
    end(mount, how)
    tcp_pool.write(session, "a", b"theirs")
    proxy.up()
    again = remount()
    (again / "a").write_bytes(b"mine again")
    again.sync()
    there = contents(tcp_pool, session)
    assert there == {"a": b"theirs", conflict_copy(there, "a"): b"mine again"}


@pytest.mark.parametrize("killed", [False, True])
def test_an_upload_that_never_left_explains_nothing_either(remount, proxy, tcp_pool, session, killed):
    mount = remount("max-retries=0")
    assert os.listdir(mount) == []
    proxy.down()
    (mount / "a").write_bytes(b"mine, for the first time")
    wait_for(lambda: mount.status()["pending"][0]["tries"], 10)
    tcp_pool.write(session, "a", b"theirs")
    if killed:
        mount.kill()
        proxy.up()
        mount = remount()
    (mount / "a").write_bytes(b"mine again")
    proxy.up()
    wait_for(lambda: len(contents(tcp_pool, session)) == 2, 20)
    there = contents(tcp_pool, session)
    assert there == {"a": b"theirs", conflict_copy(there, "a"): b"mine again"}


def test_a_crash_in_the_middle_of_a_conflict(remount, tcp_pool, session):
    tcp_pool.write(session, "a", b"first")
    mount = remount(ACAFS_FAULT="conflict-renamed")
    handle = os.open(mount / "a", os.O_RDWR)
    assert os.read(handle, 100) == b"first"
    tcp_pool.write(session, "a", b"theirs")
    os.pwrite(handle, b"mine!", 0)
    os.close(handle)
    mount.process.wait(20)
    mount.kill()
    again = remount()
    again.sync()
    there = contents(tcp_pool, session)
    assert there == {"a": b"theirs", conflict_copy(there, "a"): b"mine!"}


def test_a_long_name_makes_room_for_the_time(remount, tcp_pool, session):
    name = "é" * 120 + "x"
    tcp_pool.write(session, name, b"first")
    mount = remount()
    handle = os.open(mount / name, os.O_RDWR)
    assert os.read(handle, 100) == b"first"
    tcp_pool.write(session, name, b"theirs")
    os.pwrite(handle, b"mine!", 0)
    os.close(handle)
    mount.sync()
    copy, = set(os.listdir(mount)) - {name}
    assert len(copy.encode()) <= 255 and ".conflict-" in copy and copy.startswith("é" * 100)
    assert contents(tcp_pool, session) == {name: b"theirs", copy: b"mine!"}


def test_two_mounts_in_turn(mounts, proxy, session, tcp_pool):
    """Each sees what the other closed and synced; nobody's edit goes."""
    one, two = (mounts(proxy=proxy, session=session, options=["attr-timeout=1"]) for _ in range(2))
    (one / "a").write_text("one\n")
    one.sync()
    for n in range(4):
        mount = (one, two)[n % 2]
        mount.control("refresh")
        with open(mount / "a", "a") as file:
            file.write(f"{n}\n")
        mount.sync()
    assert tcp_pool.read(session, "a") == b"one\n0\n1\n2\n3\n"
    assert one.status()["conflicts"] == two.status()["conflicts"] == 0


def test_two_mounts_at_once(mounts, proxy, session, tcp_pool):
    one, two = (mounts(proxy=proxy, session=session, options=["attr-timeout=1"]) for _ in range(2))
    (one / "a").write_text("base")
    one.sync()
    two.control("refresh")
    handles = [os.open(mount / "a", os.O_RDWR) for mount in (one, two)]
    for number, handle in enumerate(handles):
        assert os.read(handle, 10) == b"base"
        os.pwrite(handle, b"%d..." % number, 0)
    for handle, mount in zip(handles, (one, two)):
        os.close(handle)
        mount.sync()
    there = contents(tcp_pool, session)
    assert there == {"a": b"0...", conflict_copy(there, "a"): b"1..."}
