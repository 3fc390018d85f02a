"""The service ends a session under the mount, and the same identifier is a new, empty one."""

import os
import uuid

import pytest

from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(60)]


@pytest.fixture
def recycle(tcp_pool, session):
    """Ends the session behind the mount's back."""
    def end():
        answer = tcp_pool.request("DELETE", "session", session)
        assert answer.status in (200, 204), answer.body
    return end


@pytest.fixture
def remount(mounts, proxy, session, tcp_pool, tmp_path):
    def make(*options):
        return mounts(proxy=proxy, session=session, cache=tmp_path / "cache", at=tmp_path / "mnt",
                      options=["attr-timeout=1", "timeout-connect=2", "timeout-read=5", *options])
    return make


def fill(mount):
    (mount / "written").write_text("written here")
    (mount / "sub").mkdir()
    (mount / "sub/deep").write_text("deep")
    mount.sync()


def test_the_truth_is_shown_and_what_was_here_is_kept_aside(remount, recycle, tcp_pool, session):
    tcp_pool.write(session, "read", b"read here")
    tcp_pool.write(session, "never", b"never read")
    mount = remount()
    fill(mount)
    assert (mount / "read").read_bytes() == b"read here"
    recycle()
    wait_for(lambda: os.listdir(mount) == [], 20)
    lost = mount / ".acafs/lost"
    assert (lost / "written").read_text() == "written here"
    assert (lost / "sub/deep").read_text() == "deep"
    assert (lost / "read").read_text() == "read here"
    assert not (lost / "never").exists()
    assert mount.status()["lost"] == 3
    assert "recycled" in mount.said()
    (mount / "again").write_text("works")
    mount.sync()
    assert tcp_pool.names(session) == {"again"}
    assert mount.unmount() == 0
    assert (remount() / ".acafs/lost/sub/deep").read_text() == "deep"


def test_restored_where_that_is_wanted(remount, recycle, tcp_pool, session):
    tcp_pool.write(session, "read", b"read here")
    mount = remount("restore")
    fill(mount)
    (mount / "empty").mkdir()
    os.symlink("written", mount / "link")
    assert (mount / "read").read_bytes() == b"read here"
    recycle()
    wait_for(lambda: mount.control("refresh") and mount.status()["recycled"], 20)
    mount.sync()
    wait_for(lambda: tcp_pool.read(session, "deep", "sub") == b"deep", 10)
    assert tcp_pool.read(session, "written") == b"written here"
    assert tcp_pool.read(session, "read") == b"read here"
    wait_for(lambda: set(tcp_pool.run(session, "import os; os.listdir('/mnt/data')")) >= {"empty", "link"}, 10)
    mount.control("refresh")
    assert sorted(os.listdir(mount)) == ["empty", "link", "read", "sub", "written"]
    assert (mount / "link").read_text() == "written here"


def test_what_was_not_sent_goes_to_the_new_session(remount, recycle, proxy, tcp_pool, session):
    mount = remount("max-retries=0")
    fill(mount)
    proxy.down()
    (mount / "pending").write_text("pending")
    (mount / "written").write_text("changed")
    recycle()
    proxy.up()
    mount.sync()
    wait_for(lambda: sorted(os.listdir(mount)) == ["pending", "written"], 20)
    assert tcp_pool.read(session, "pending") == b"pending"
    assert tcp_pool.read(session, "written") == b"changed"
    assert not [name for name in tcp_pool.names(session) if "conflict" in name]


@pytest.mark.parametrize("end", ["unmount", "kill"])
def test_recycled_while_nothing_was_mounted(remount, recycle, proxy, tcp_pool, session, end):
    """The next mount says so, and sends what was not on the server."""
    mount = remount("max-retries=0", "unmount-timeout=1")
    fill(mount)
    wait_for(lambda: mount.status()["etag"], 10)
    proxy.down()
    (mount / "pending").write_text("pending")
    (mount / "written").write_text("changed")
    getattr(mount, end)()
    recycle()
    proxy.up()
    again = remount()
    wait_for(lambda: again.status()["recycled"] == 1, 20)
    assert "the session was recycled since it was mounted last" in again.said()
    again.sync()
    assert sorted(os.listdir(again)) == ["pending", "written"]
    assert tcp_pool.read(session, "pending") == b"pending"
    assert tcp_pool.read(session, "written") == b"changed"
    assert again.status()["conflicts"] == 0
    etag = again.status()["etag"]
    assert again.unmount() == 0
    same = remount()
    same.sync()
    wait_for(lambda: proxy.count("GET session") and same.status()["etag"] == etag, 10)
    assert same.status()["recycled"] == 0 and "session was recycled" not in same.said()


def test_deleted_by_wish_is_no_news_at_the_next_mount(remount, tcp_pool, session):
    mount = remount()
    fill(mount)
    assert mount.control("delete-session") == {"ok": True}
    assert mount.unmount() == 0
    again = remount()
    assert os.listdir(again) == []
    wait_for(lambda: again.control("refresh") and again.status()["etag"], 10)
    assert again.status()["recycled"] == 0 and "session was recycled" not in again.said()


def test_a_session_that_is_deleted_by_wish_is_not_restored(remount, tcp_pool, session):
    mount = remount("restore")
    fill(mount)
    assert mount.control("delete-session") == {"ok": True}
    wait_for(lambda: os.listdir(mount) == [], 20)
    mount.sync()
    assert tcp_pool.names(session) == set()


def test_each_use_puts_the_end_off(own_pool, mounts):
    """And the status tells it, of the session that came after, too."""
    pool = own_pool(tcp=True, options=["--cooldown", "30"])
    mount = mounts(pool=pool, options=["attr-timeout=0"], env={"ACAFS_TOKEN": pool.token})
    first = wait_for(lambda: mount.status()["expires"])
    wait_for(lambda: os.listdir(mount) == [] and mount.status()["expires"] > first, 20, every=0.2)
    (mount / "a").write_text("a")
    mount.sync()
    assert pool.request("DELETE", "session", mount.session).status in (200, 204)
    wait_for(lambda: os.listdir(mount) == [] and mount.status()["recycled"], 20, every=0.2)
    wait_for(lambda: os.listdir(mount) == [] and (mount.status()["expires"] or "") > first, 20, every=0.2)


def test_a_session_that_is_kept_alive_outlives_its_cooldown(own_pool, mounts):
    pool = own_pool(tcp=True, options=["--cooldown", "4"])
    mount = mounts(pool=pool, source=None, options=["keepalive"], env={"ACAFS_TOKEN": pool.token})
    (mount / "a").write_text("a")
    mount.sync()
    etag = mount.status()["etag"]
    other = mounts(pool=pool, env={"ACAFS_TOKEN": pool.token})
    (other / "b").write_text("b")
    other.sync()
    assert other.session in str(pool.request("GET", "listSessions").json())
    # The one that is not kept is gone after the cooldown; by then the other would be, too.
    wait_for(lambda: other.session not in str(pool.request("GET", "listSessions").json()), 30, every=0.5)
    assert mount.status()["etag"] == etag and mount.status()["recycled"] == 0
    assert (mount / "a").read_text() == "a"


def test_the_session_of_the_pool_on_this_machine_lives_as_long_as_its_mount(own_pool, mounts):
    pool = own_pool(options=["--cooldown", "4"])
    mount = mounts(pool=pool)
    (mount / "a").write_text("a")
    mount.sync()
    other = str(uuid.uuid4())
    pool.write(other, "b", b"b")
    wait_for(lambda: other not in str(pool.request("GET", "listSessions").json()), 30, every=0.5)
    assert mount.status()["recycled"] == 0 and (mount / "a").read_text() == "a"
