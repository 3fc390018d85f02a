"""Nothing that was closed is lost: not by a crash at any step, not by a pool that is away, not by unmounting."""

import errno
import os
import random
import signal
import subprocess
import threading
import time

import pytest

from support import proxy as fault
from support.process import environment, run
from support.wait import wait_for

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

UPLOAD = r"POST files"
SEEDS = [int(os.environ["ACAFS_SEED"])] if "ACAFS_SEED" in os.environ else [1, 2, 3]


@pytest.fixture
def remount(mounts, proxy, session, tcp_pool, tmp_path):
    """Mounts the session through the proxy, again and again with the same cache and place."""
    def make(*options, start=True, **env):
        return mounts(proxy=proxy, session=session, cache=tmp_path / "cache", at=tmp_path / "mnt", start=start,
                      options=["attr-timeout=1", "timeout-connect=2", "timeout-read=2", "max-retries=0", *options],
                      env=env)
    return make


def tree(mount):
    """Every file of a mount and its content."""
    return {os.path.relpath(os.path.join(folder, name), mount): open(os.path.join(folder, name), "rb").read()
            for folder, _, names in os.walk(mount) for name in names}


class Model:
    """What the mount must show: for each name the contents that it may have, None for no such file."""

    def __init__(self):
        self.may = {}

    def get(self, name):
        return self.may.get(name, {None})

    def do(self, operation, **outcome):
        """Does it; when the daemon dies on the way, the names may be as before or as after. False then."""
        try:
            operation()
        except OSError as error:
            assert error.errno in (errno.ENOTCONN, errno.ECONNABORTED, errno.EIO), error
            for name, after in outcome.items():
                self.may[name] = self.get(name) | after
            return False
        self.may.update(outcome)
        return True

    def check(self, found):
        for name, may in self.may.items():
            there = found.get(name)
            assert there in may, f"{name}: {there and there[:40]!r}, not {[m and m[:40] for m in may]}"
        strangers = set(found) - set(self.may)
        assert not strangers, strangers


def write(path, content):
    with open(path, "wb") as file:
        file.write(content)


def replace(path, content):
    """As an editor saves."""
    write(f"{path}.tmp", content)
    os.rename(f"{path}.tmp", path)


def everything(mount, model):
    """A bit of all that goes through the journal, until the daemon dies: True then."""
    def steps():
        for n in range(3):
            content = f"first {n}".encode() * 100
            yield lambda: write(mount / f"f{n}", content), {f"f{n}": {content}}
        yield lambda: write(mount / "f0.tmp", b"saved"), {"f0.tmp": {b"saved"}}
        yield lambda: os.rename(mount / "f0.tmp", mount / "f0"), {"f0": {b"saved"}, "f0.tmp": {None}}
        yield mount.sync, {}
        yield lambda: write(mount / "f1", b"second"), {"f1": {b"second"}}
        yield lambda: os.rename(mount / "f1", mount / "g1"), {"f1": {None}, "g1": model.get("f1")}
        yield mount.sync, {}
        yield lambda: os.rename(mount / "g1", mount / "h1"), {"g1": {None}, "h1": model.get("g1")}
        yield lambda: write(mount / "f2.tmp", b"x" * 10_000), {"f2.tmp": {b"x" * 10_000}}
        yield lambda: os.rename(mount / "f2.tmp", mount / "f2"), {"f2": {b"x" * 10_000}, "f2.tmp": {None}}
        yield lambda: os.unlink(mount / "h1"), {"h1": {None}}
        yield lambda: write(mount / "new", b"new"), {"new": {b"new"}}
        yield lambda: os.rename(mount / "new", mount / "newer"), {"new": {None}, "newer": {b"new"}}
        yield mount.sync, {}
        yield lambda: os.truncate(mount / "f2", 3), {"f2": {b"xxx"}}
        yield mount.sync, {}
    for operation, outcome in steps():
        if not model.do(operation, **outcome) or not mount.running():
            return True
    return False


# --- crashes

STEPS = ["content-named", "content-synced", "record-torn", "record-written", "journal-synced", "content-unnamed",
         "upload-done", "change-intended", "change-made", "removal-begun", "removal-done"]


@pytest.mark.parametrize("step", STEPS)
@pytest.mark.parametrize("nth", [1, 3])
def test_killed_at_a_step(remount, tcp_pool, session, step, nth):
    model = Model()
    known = remount()  # the journal has whose it is, so that nothing is written before the next is mounted
    wait_for(lambda: known.status()["etag"], 10)
    assert known.unmount() == 0
    mount = remount(ACAFS_FAULT=f"{step}:{nth}")
    if not everything(mount, model):
        assert nth > 1, f"{step} never comes"
        mount.kill()
    assert mount.process.wait(10) == -signal.SIGKILL
    mount.kill()
    again = remount()
    model.check(tree(again))
    again.sync()
    model.check(tree(again))
    for name, may in model.may.items():
        assert tcp_pool.read(session, name) in may
    assert again.status()["pending"] == [] and again.status()["conflicts"] == 0
    assert len(os.listdir(again.status()["cache"]["directory"] + "/content")) <= len(os.listdir(again))


@pytest.mark.parametrize("step", ["compact-written", "compact-renamed", "record-written"])
def test_killed_while_it_recovers(remount, proxy, tcp_pool, session, step):
    mount = remount()
    proxy.rule(UPLOAD, fault.answer(503))
    model = Model()
    for n in range(5):
        assert model.do(lambda: write(mount / f"f{n}", f"{n}".encode()), **{f"f{n}": {f"{n}".encode()}})
    mount.kill()
    proxy.clear()
    dying = remount(start=False, ACAFS_FAULT=step)
    dying.process = subprocess.Popen(dying.command(), env=dying.env, stdout=subprocess.DEVNULL,
                                     stderr=subprocess.DEVNULL)
    assert dying.process.wait(20) == -signal.SIGKILL
    dying.kill()
    again = remount()
    model.check(tree(again))
    again.sync()
    model.check({name: tcp_pool.read(session, name) for name in tcp_pool.names(session)})


def test_an_unknown_step_is_refused(remount):
    mount = remount(start=False, ACAFS_FAULT="no-such-step")
    done = run(mount.command(), env=mount.env, check=False)
    assert done.returncode == 64 and "ACAFS_FAULT" in done.stderr


@pytest.mark.parametrize("seed", SEEDS)
def test_killed_at_any_time_under_load(remount, proxy, tcp_pool, session, seed):
    """Four writers until the daemon is killed, four times; one request in eight fails. Repeat with ACAFS_SEED."""
    dice = random.Random(seed)
    models = [Model() for _ in range(4)]

    def load(mount, number, seed):
        own, model, count = random.Random(seed), models[number], 0
        while True:
            count += 1
            one, other = (f"w{number}-{own.randrange(4)}" for _ in range(2))
            content = own.randbytes(own.choice([0, 10, 5000, 70_000]))
            kind = own.randrange(6)
            if kind < 3:
                # The name may be seen empty when the daemon dies between open and close.
                step = model.do(lambda: write(mount / one, content), **{one: {content}})
                if not step:
                    model.may[one] |= {b""} | {content[:n] for n in range(0, len(content), 4096)}
            elif kind == 3:
                step = model.do(lambda: replace(mount / one, content), **{one: {content}, f"{one}.tmp": {None}})
                if not step:
                    model.may[f"{one}.tmp"] |= {content}
            elif None not in model.get(one) and kind == 4 and one != other:
                step = model.do(lambda: os.rename(mount / one, mount / other),
                                **{other: model.get(one), one: {None}})
            elif None not in model.get(one):
                step = model.do(lambda: os.unlink(mount / one), **{one: {None}})
            else:
                continue
            if not step:
                return

    for turn in range(4):
        mount = remount("max-transfers=4", "timeout-read=20")
        for model in models:
            found = {name: content for name, content in tree(mount).items() if name in model.may}
            model.check(found)
            for name in model.may:
                model.may[name] = {found.get(name)}
        rule = proxy.rule(r"(POST|GET|DELETE) files.*", fault.answer(503), every=8)
        threads = [threading.Thread(target=load, args=(mount, n, dice.random())) for n in range(4)]
        for thread in threads:
            thread.start()
        threading.Event().wait(dice.uniform(0.05, 0.8))
        mount.process.kill()
        mount.process.wait()
        for thread in threads:
            thread.join(20)
        mount.kill()
        proxy.drop(rule)
        proxy.drain()  # what the dead mount asked for last is done: nothing can take back what was sent
    again = remount()
    wanted = tree(again)
    for model in models:
        model.check({name: content for name, content in wanted.items() if name in model.may})
    again.sync()
    assert tree(again) == wanted
    there = {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)}
    assert there == wanted
    assert not [name for name in wanted if "conflict" in name]


def test_metadata_survives_a_crash(remount):
    mount = remount()
    write(mount / "a", b"a")
    (mount / "d").mkdir(mode=0o750)
    os.chmod(mount / "a", 0o741)
    os.utime(mount / "a", (1, 1_000_000_000.25))
    handle = os.open(mount, os.O_RDONLY)
    os.fsync(handle)
    os.close(handle)
    mount.kill()
    again = remount()
    status = os.stat(again / "a")
    assert (oct(status.st_mode), status.st_mtime) == ("0o100741", 1_000_000_000.25)
    assert oct(os.stat(again / "d").st_mode) == "0o40750"
    again.sync()
    assert again.unmount() == 0
    again = remount()
    assert os.stat(again / "a").st_mtime == 1_000_000_000.25


@pytest.mark.parametrize("change", ["chmod", "utime", "chown", "mkdir"])
def test_metadata_that_was_answered_survives_a_crash(remount, change):
    """Nobody is told that it is done before the journal has it."""
    mount = remount()
    write(mount / "a", b"a")
    assert mount.unmount() == 0
    mount = remount(ACAFS_FAULT="record-torn:4")
    mode = lambda n: 0o711 if n % 2 else 0o700
    do, look = {
        "chmod": (lambda n: os.chmod(mount / "a", 0o600 + n % 64),
                  lambda n: os.stat(again / "a").st_mode & 0o777 == 0o600 + n % 64),
        "utime": (lambda n: os.utime(mount / "a", (1, n)), lambda n: os.stat(again / "a").st_mtime == n),
        "chown": (lambda n: os.chown(mount / "a", n, n), lambda n: os.stat(again / "a").st_uid == n),
        "mkdir": (lambda n: os.mkdir(mount / f"d{n}", mode(n)),
                  lambda n: os.stat(again / f"d{n}").st_mode & 0o777 == mode(n)),
    }[change]
    answered = 0
    with pytest.raises(OSError):
        while answered < 50:
            do(answered + 1)
            answered += 1
    assert mount.process.wait(10) == -signal.SIGKILL and answered
    mount.kill()
    again = remount()
    assert look(answered) or look(answered + 1)


def test_metadata_goes_with_a_file_that_others_removed(remount, tcp_pool, session):
    mount = remount()
    write(mount / "a", b"a")
    os.chmod(mount / "a", 0o600)
    mount.sync()
    tcp_pool.delete(session, "a")
    wait_for(lambda: os.listdir(mount) == [], 10)
    mount.kill()
    tcp_pool.write(session, "a", b"other")
    again = remount()
    assert oct(os.stat(again / "a").st_mode) == "0o100644"


# --- the pool is away

def test_what_is_not_sent_yet_can_be_renamed_and_deleted(remount, proxy, tcp_pool, session):
    mount = remount()
    write(mount / "old", b"old")
    mount.sync()
    proxy.down()
    write(mount / "a", b"a")
    write(mount / "b", b"b")
    write(mount / "old", b"new")
    os.rename(mount / "a", mount / "c")
    os.unlink(mount / "b")
    os.rename(mount / "old", mount / "moved")
    wanted = {"c": b"a", "moved": b"new"}
    assert tree(mount) == wanted
    mount.kill()
    proxy.up()
    again = remount()
    assert tree(again) == wanted
    again.sync()
    assert {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)} == wanted


def test_what_the_server_must_do_fails_fast(remount, proxy):
    mount = remount()
    write(mount / "a", b"a")
    mount.sync()
    proxy.down()
    handle = os.open(mount / "b", os.O_CREAT | os.O_WRONLY)
    with pytest.raises(OSError):
        os.fsync(handle)
    os.close(handle)
    for operation in (lambda: os.mkdir(mount / "d"), lambda: os.rename(mount / "a", mount / "x"),
                      lambda: os.symlink("a", mount / "l")):
        began = time.monotonic()
        with pytest.raises(OSError) as error:
            operation()
        assert error.value.errno in (errno.EHOSTUNREACH, errno.ETIMEDOUT)
        assert time.monotonic() - began < 5
    assert (mount / "a").read_bytes() == b"a"
    proxy.up()
    mount.sync()


def test_unmounting_leaves_the_rest_to_the_next_mount(remount, proxy, tcp_pool, session):
    mount = remount("unmount-timeout=5")
    proxy.down()
    write(mount / "a", b"kept")
    assert mount.unmount() == 1
    assert "not on the server: a (4 bytes)" in mount.said()
    assert "1 files and 0 deletes stay in the journal" in mount.said().splitlines()[-1]
    proxy.up()
    again = remount()
    again.sync()
    assert tcp_pool.read(session, "a") == b"kept"


def test_umount_drains(remount, proxy, tcp_pool, session):
    mount = remount()
    for n in range(30):
        write(mount / f"f{n}", b"x" * n)
    assert mount.unmount() == 0
    assert len(tcp_pool.names(session)) == 30
    assert os.listdir(next((mount.path.parent / "cache").glob("*/*/content"))) == []


def test_a_session_is_mounted_once_a_cache(remount):
    mount = remount()
    second = remount(start=False)
    second.path = second.path.parent / "second"
    second.path.mkdir()
    done = run(second.command(), env=second.env, check=False)
    assert done.returncode == 75
    assert f"mounted already on this machine, by process {mount.pid}" in done.stderr
    assert len(done.stderr.splitlines()) == 1


# --- the queue

def test_an_atomic_save_is_one_upload_of_the_final_name(remount, proxy, tcp_pool, session):
    mount = remount()
    write(mount / "a", b"first")
    mount.sync()
    before = proxy.count(UPLOAD)
    replace(mount / "a", b"second")
    mount.sync()
    assert tcp_pool.read(session, "a") == b"second"
    assert proxy.count(UPLOAD) - before == 1
    assert tcp_pool.names(session) == {"a"}


def test_newest_content_wins(remount, proxy, tcp_pool, session):
    mount = remount()
    for n in range(50):
        write(mount / "a", b"%d" % n)
    mount.sync()
    assert tcp_pool.read(session, "a") == b"49"
    assert proxy.count(UPLOAD) <= 25


def test_no_more_transfers_than_told(remount, proxy):
    mount = remount("max-transfers=3", "timeout-read=20")
    most = []
    under_way = []

    def slow(exchange):
        under_way.append(1)
        most.append(len(under_way))
        exchange.pause(0.05)
        exchange.forward()
        under_way.pop()
    proxy.rule(UPLOAD, slow)
    for n in range(12):
        write(mount / f"f{n}", b"x")
    mount.sync()
    assert 2 <= max(most) <= 3


def test_a_refused_file_is_failed_and_kept(remount, proxy, tcp_pool, session):
    mount = remount()
    rule = proxy.rule(UPLOAD, fault.answer(413), times=1)
    write(mount / "a", b"refused")
    write(mount / "ok", b"ok")
    wait_for(lambda: mount.status()["failed"] == len(mount.status()["pending"]) == 1, 10)
    entry, = [entry for entry in mount.status()["pending"]]
    assert rule.used == 1
    refused = entry["path"]
    assert entry["failed"] and entry["kept"] and entry["error"] == os.strerror(errno.EFBIG)
    assert os.listxattr(mount / refused) == ["user.acafs.error"]
    assert os.getxattr(mount / refused, "user.acafs.error").decode() == os.strerror(errno.EFBIG)
    handle = os.open(mount / refused, os.O_WRONLY)
    with pytest.raises(OSError) as error:
        os.close(handle)
    assert error.value.errno == errno.EFBIG
    content = (mount / refused).read_bytes()
    mount.kill()
    again = remount()
    assert (again / refused).read_bytes() == content
    again.sync()
    assert tcp_pool.read(session, refused) == content
    assert os.listxattr(again / refused) == []


def test_sync_tells_the_true_error(remount, proxy):
    mount = remount()
    rule = proxy.rule(UPLOAD, fault.answer(503))
    write(mount / "a", b"a")
    with pytest.raises(OSError) as error:
        mount.sync()
    assert error.value.errno == errno.EIO
    proxy.drop(rule)
    mount.sync()


def test_close_waits_for_the_server_with_sync(remount, proxy, tcp_pool, session):
    mount = remount("sync")
    write(mount / "a", b"a")
    assert tcp_pool.read(session, "a") == b"a"
    proxy.rule(UPLOAD, fault.answer(503), times=1)
    with pytest.raises(OSError):
        write(mount / "a", b"b")
    mount.sync()


def test_what_is_in_the_way_of_the_new_name_goes_up_first(remount, proxy, tcp_pool, session):
    """A rename while its upload is under way leaves nothing under the old name."""
    mount = remount("timeout-read=20")
    proxy.rule(UPLOAD, fault.delay(1), times=1)
    write(mount / "a", b"content")
    wait_for(lambda: mount.status()["pending"] and mount.status()["pending"][0]["uploading"], 10)
    began = time.monotonic()
    os.rename(mount / "a", mount / "b")
    assert time.monotonic() - began < 0.9
    mount.sync()
    wait_for(lambda: tcp_pool.names(session) == {"b"}, 10)
    assert tcp_pool.read(session, "b") == b"content"


def test_a_name_made_again_before_its_old_copy_went(remount, proxy, tcp_pool, session):
    mount = remount()
    write(mount / "a", b"one")
    mount.sync()
    proxy.down()
    write(mount / "a", b"two")
    os.rename(mount / "a", mount / "b")
    write(mount / "a", b"three")
    proxy.up()
    mount.sync()
    assert {name: tcp_pool.read(session, name) for name in tcp_pool.names(session)} == {"a": b"three", "b": b"two"}
    assert mount.status()["conflicts"] == 0


@pytest.mark.parametrize("change", ["unlink", "rename over it", "rename its directory"])
def test_a_name_that_is_being_changed_gets_no_upload(remount, proxy, tcp_pool, session, change):
    """What the server had when the upload looked, a moment before the change, is no news after it."""
    mount = remount("timeout-read=20")
    (mount / "d").mkdir()
    write(mount / "d/a", b"other")
    write(mount / "d/b", b"first")
    mount.sync()
    uploads, looked, changed = proxy.count(UPLOAD), threading.Event(), threading.Event()
    look = proxy.rule("GET files/{name}", fault.withhold(looked), times=1)
    ask = proxy.rule("DELETE files/{name}|POST (executions|code/execute)", fault.withhold(changed), times=1)
    write(mount / "d/b", b"second")
    wait_for(lambda: look.used, 10)
    operation, wanted = {
        "unlink": (lambda: os.unlink(mount / "d/b"), {"d/a": b"other"}),
        "rename over it": (lambda: os.rename(mount / "d/a", mount / "d/b"), {"d/b": b"other"}),
        "rename its directory": (lambda: os.rename(mount / "d", mount / "e"), {"e/a": b"other", "e/b": b"second"}),
    }[change]
    thread = threading.Thread(target=operation)
    thread.start()
    wait_for(lambda: ask.used, 10)
    looked.set()
    wait_for(lambda: proxy.busy == 1, 10)
    for _ in range(2):
        mount.status()  # the daemon has read what the look brought
    assert proxy.count(UPLOAD) == uploads
    changed.set()
    thread.join(20)
    mount.sync()
    assert tree(mount) == wanted
    there = tcp_pool.run(session, "import os; [os.path.join(d, n)[10:] for d, _, f in os.walk('/mnt/data') for n in f]")
    assert {name: tcp_pool.read(session, *reversed(os.path.split(name))) for name in there} == wanted
    assert mount.status()["conflicts"] == 0


# --- room

def test_a_cache_full_of_what_is_not_sent_refuses_more(remount, proxy, tcp_pool, session):
    mount = remount("cache-size=1M")
    write(mount / "clean", os.urandom(500_000))
    mount.sync()
    proxy.down()
    write(mount / "a", b"a" * 900_000)
    with pytest.raises(OSError) as error:
        write(mount / "b", b"b" * 300_000)
    assert error.value.errno == errno.ENOSPC
    assert (mount / "a").read_bytes() == b"a" * 900_000
    proxy.up()
    mount.sync()
    write(mount / "b", b"b" * 300_000)
    mount.sync()
    assert tcp_pool.read(session, "b") == b"b" * 300_000


def test_a_file_larger_than_the_cache_is_no_endless_download(remount, proxy, tcp_pool, session):
    tcp_pool.write(session, "big", bytes(5_000_000))
    mount = remount("cache-size=1M")
    for size in (1 << 20, 4096):
        with open(mount / "big", "rb", buffering=0) as file:
            assert sum(len(piece) for piece in iter(lambda: file.read(size), b"")) == 5_000_000
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    assert mount.status()["counters"]["downloads"] < 100
    write(mount / "small", b"small")
    mount.sync()
    assert tcp_pool.read(session, "small") == b"small"


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts a small disk")
def test_the_disk_is_never_filled(mounts, tcp_pool, session, tmp_path, proxy):
    disk = tmp_path / "disk"
    disk.mkdir()
    run(["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", disk])
    try:
        mount = mounts(proxy=proxy, session=session, cache=disk)
        with pytest.raises(OSError) as error:
            write(mount / "a", b"a" * 9_000_000)
        assert error.value.errno == errno.ENOSPC
        left = os.statvfs(disk)
        assert left.f_bavail * left.f_frsize > 100_000
        os.unlink(mount / "a")
        write(mount / "b", b"b")
        mount.sync()
        assert mount.unmount() == 0
    finally:
        run(["umount", "-l", disk])


def test_memory_stays_small_while_a_big_file_goes_up(remount, tcp_pool, session):
    from support.process import sanitized
    mount = remount("timeout-read=20")
    with open(mount / "big", "wb") as file:
        for _ in range(100):
            file.write(os.urandom(1 << 20))
    mount.sync()
    if not sanitized():
        assert mount.peak_memory() <= 16 << 20
