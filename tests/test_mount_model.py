"""Random operations on a mount and on a local directory: both must answer alike and end up alike.

A failure names the seed and the operations so far; ACAFS_MODEL_SEED and ACAFS_MODEL_STEPS repeat or widen it."""

import base64
import errno
import json
import os
import random
import stat

import pytest

from support.proxy import answer

pytestmark = [pytest.mark.limit(200)]

SEEDS = [int(os.environ["ACAFS_MODEL_SEED"])] if "ACAFS_MODEL_SEED" in os.environ else [1, 2, 3]
STEPS = int(os.environ.get("ACAFS_MODEL_STEPS", "250"))
NAMES = ["a", "b.txt", "with space", "x:y", "a~", ".dot", "v1.2", "100%", "é", "d", "e", "f"]


class Side:
    """One of the two directories, and the files open in it."""

    def __init__(self, top):
        self.top = os.fspath(top)
        self.open = {}

    def do(self, operation, *arguments):
        """What it gives, or the errno it fails with."""
        try:
            return getattr(self, operation)(*arguments)
        except OSError as error:
            return errno.errorcode[error.errno]

    def at(self, path):
        return os.path.join(self.top, path)

    def write(self, path, data):
        with open(self.at(path), "wb") as file:
            file.write(data)

    def append(self, path, data):
        with open(self.at(path), "ab") as file:
            file.write(data)

    def patch(self, path, offset, data):
        handle = os.open(self.at(path), os.O_WRONLY)
        try:
            os.pwrite(handle, data, offset)
        finally:
            os.close(handle)

    def create(self, path):
        os.close(os.open(self.at(path), os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644))

    def read(self, path):
        with open(self.at(path), "rb") as file:
            return file.read()

    def truncate(self, path, size):
        os.truncate(self.at(path), size)

    def unlink(self, path):
        os.unlink(self.at(path))

    def mkdir(self, path):
        os.mkdir(self.at(path))

    def rmdir(self, path):
        os.rmdir(self.at(path))

    def rename(self, old, new):
        os.rename(self.at(old), self.at(new))

    def symlink(self, target, path):
        os.symlink(target, self.at(path))

    def chmod(self, path, mode):
        if not os.path.islink(self.at(path)):
            os.chmod(self.at(path), mode)

    def utime(self, path, seconds):
        os.utime(self.at(path), (seconds, seconds), follow_symlinks=False)

    def list(self, path):
        return sorted(os.listdir(self.at(path)))

    def look(self, path):
        status = os.lstat(self.at(path))
        size = status.st_size if not stat.S_ISDIR(status.st_mode) else None
        return stat.S_IFMT(status.st_mode), stat.S_IMODE(status.st_mode), size

    def hold(self, path):
        """Opens a file and keeps it; at most three."""
        handle = os.open(self.at(path), os.O_RDWR)
        self.open[len(self.open)] = handle

    def use(self, number, data):
        handle = self.open[number]
        os.lseek(handle, 0, os.SEEK_END)
        os.write(handle, data)
        return os.pread(handle, 1 << 20, 0)

    def let_go(self):
        for handle in self.open.values():
            os.close(handle)
        self.open.clear()

    def tree(self):
        found = {}
        for folder, folders, files in os.walk(self.top):
            for name in folders + files:
                path = os.path.join(folder, name)
                status = os.lstat(path)
                key = os.path.relpath(path, self.top)
                if stat.S_ISLNK(status.st_mode):
                    found[key] = ("link", os.readlink(path))
                elif stat.S_ISDIR(status.st_mode):
                    found[key] = ("directory", stat.S_IMODE(status.st_mode))
                else:
                    with open(path, "rb") as file:
                        found[key] = ("file", stat.S_IMODE(status.st_mode), file.read())
        return found


def random_path(dice):
    return "/".join(dice.choice(NAMES) for _ in range(dice.choice([1, 1, 1, 2, 2, 3])))


def random_operation(dice, held):
    data = dice.randbytes(dice.choice([0, 1, 10, 4096, 5000, 70_000]))
    path = random_path(dice)
    return dice.choice([
        ("write", path, data), ("write", path, data), ("append", path, data), ("create", path),
        ("patch", path, dice.randrange(100_000), data[:5000]), ("read", path), ("read", path),
        ("truncate", path, dice.choice([0, 3, 4096, 100_000])), ("unlink", path), ("mkdir", path), ("mkdir", path),
        ("rmdir", path), ("rename", path, random_path(dice)), ("rename", path, random_path(dice)),
        ("symlink", random_path(dice), path), ("chmod", path, dice.choice([0o600, 0o644, 0o755])),
        ("utime", path, dice.randrange(1_000_000_000)), ("list", os.path.dirname(path)), ("look", path),
        *([("hold", path)] if held < 3 else []),
        *([("use", dice.randrange(held), data[:100])] * 2 if held else []),
        *([("let_go",)] if held else []),
    ])


def brief(operation):
    return tuple(f"<{len(part)} bytes>" if isinstance(part, bytes) else part for part in operation)


def compare(dice, one, two, steps, random_operation=random_operation):
    """Does the same to both until they differ. Permission bits of symlinks and such are the same anyway."""
    history = []
    for _ in range(steps):
        operation = random_operation(dice, len(one.open))
        wanted, got = one.do(*operation), two.do(*operation)
        history.append(brief(operation))
        if wanted != got:
            told = [value if not isinstance(value, bytes) else f"{len(value)} bytes" for value in (wanted, got)]
            raise AssertionError(f"{brief(operation)}: {told[0]} locally, {told[1]} on the mount, after\n" +
                                 "\n".join(map(str, history[-40:])))
    one.let_go()
    two.let_go()


@pytest.mark.parametrize("seed", SEEDS)
def test_a_mount_behaves_like_a_directory(folder, tmp_path, seed):
    (tmp_path / "local").mkdir()
    one, two = Side(tmp_path / "local"), Side(folder)
    compare(random.Random(seed), one, two, STEPS)
    assert one.tree() == two.tree()


def in_session(pool, session):
    """What kind of thing each name there is, and the content of files and links."""
    there = json.loads(pool.run(session, """
import base64, json, os
found = {}
for folder, folders, files in os.walk('/mnt/data'):
    for name in folders + files:
        path = os.path.join(folder, name)
        key = os.path.relpath(path, '/mnt/data')
        if os.path.islink(path):
            found[key] = ('link', os.readlink(path))
        elif os.path.isdir(path):
            found[key] = ('directory', None)
        else:
            found[key] = ('file', base64.b64encode(open(path, 'rb').read()).decode())
json.dumps(found)"""))
    return {path: (kind, base64.b64decode(content) if kind == "file" else content)
            for path, (kind, content) in there.items()}


@pytest.mark.session
@pytest.mark.parametrize("seed", SEEDS)
def test_the_session_and_the_next_mount_have_the_same(mounts, session, pool, tmp_path, seed):
    """What is in the session afterwards, and what a mount without any cache shows, is that tree."""
    (tmp_path / "local").mkdir()
    mount = mounts(session=session)
    one, two = Side(tmp_path / "local"), Side(mount.path)
    compare(random.Random(seed + 1000), one, two, STEPS)
    mount.sync()
    wanted = {path: (kind[0], kind[-1] if kind[0] != "directory" else None) for path, kind in one.tree().items()}
    assert in_session(pool, session) == wanted
    assert mount.unmount() == 0
    again = Side(mounts(session=session).path).tree()
    assert {path: (kind[0], kind[-1] if kind[0] != "directory" else None) for path, kind in again.items()} == wanted


def random_file_operation(dice, held):
    """Of those that need no answer of the pool where all content is at hand: of empty files it is when it was asked for,
    which no reader does."""
    data = dice.randbytes(dice.choice([1, 10, 4096, 5000, 70_000]))
    path = dice.choice(["", "d/"]) + dice.choice(["a", "b.txt", "with space", "100%", "é", "e"])
    return dice.choice([
        ("write", path, data), ("write", path, data), ("append", path, data), ("read", path),
        ("truncate", path, dice.choice([3, 4096])), ("unlink", path), ("unlink", path), ("unlink", path),
        ("list", os.path.dirname(path)), ("look", path),
        *([("hold", path)] if held < 3 else []),
        *([("use", dice.randrange(held), data[:100])] if held else []),
        *([("let_go",)] if held else []),
    ])


@pytest.mark.session
@pytest.mark.parametrize("seed", SEEDS)
def test_files_are_written_and_deleted_while_the_pool_comes_and_goes(mounts, proxy, session, tcp_pool, tmp_path, seed):
    """Half of the time the pool is away, and a request in six fails while it is not. Now and then the daemon is
    killed; then all that was kept goes on with the next mount."""
    dice = random.Random(seed + 3000)
    (tmp_path / "local/d").mkdir(parents=True)
    one = Side(tmp_path / "local")

    def mounted():
        return mounts(proxy=proxy, session=session, at=tmp_path / "mnt", cache=tmp_path / "cache",
                      options=["attr-timeout=1", "timeout-connect=1", "max-retries=0"])
    mount = mounted()
    (mount / "d").mkdir()
    for _ in range(10):
        rule = proxy.rule(r"(POST|DELETE) files.*|GET files/\{name\}", answer(503), every=6)
        two = Side(mount.path)
        for _ in range(3):
            if dice.random() < 0.5:
                proxy.down()
            compare(dice, one, two, STEPS // 20, random_file_operation)
            proxy.up()
        if dice.random() < 0.3:
            proxy.down()
            mount.kill()
            proxy.up()
            proxy.drain()
            mount = mounted()
        proxy.drop(rule)
        mount.sync()
        wanted = one.tree()
        assert wanted == Side(mount.path).tree()
        there = in_session(tcp_pool, session)  # a daemon that is killed may leave a stage, which is not shown
        assert {path: kind for path, kind in there.items() if "acafs-stage-" not in path} == {
            path: (kind[0], kind[-1] if kind[0] != "directory" else None) for path, kind in wanted.items()}
    assert mount.status()["conflicts"] == 0


@pytest.mark.session
@pytest.mark.parametrize("seed", SEEDS)
def test_crashes_and_remounts_change_nothing(mounts, proxy, session, tcp_pool, tmp_path, seed):
    """Every now and then the daemon is killed, or unmounts, and a request in twelve fails: whoever looks sees none
    of that, and in the end the session has the same."""
    dice = random.Random(seed + 2000)
    (tmp_path / "local").mkdir()
    one = Side(tmp_path / "local")
    rule = proxy.rule(r"(GET|POST|DELETE) files.*", answer(503, {"Retry-After": "0"}), every=12)

    def mounted():
        return mounts(proxy=proxy, session=session, at=tmp_path / "mnt", cache=tmp_path / "cache")
    for _ in range(5):
        mount = mounted()
        two = Side(mount.path)
        compare(dice, one, two, STEPS // 5)
        assert one.tree() == two.tree()
        if dice.random() < 0.3:
            assert mount.unmount() == 0
        else:
            mount.kill()
            proxy.drain()
    proxy.drop(rule)
    mount = mounted()
    assert one.tree() == Side(mount.path).tree()
    mount.sync()
    assert mount.status()["conflicts"] == 0
    assert mount.unmount() == 0
    again = mounts(session=session, pool=tcp_pool)
    forget_modes = [{path: kind[:1] + kind[2:] for path, kind in side.tree().items()} for side in (one, Side(again.path))]
    assert forget_modes[0] == forget_modes[1]
