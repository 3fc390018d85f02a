"""Symlinks that code in the session makes: none leads to files of this machine, unless that is wanted."""

import errno
import os

import pytest

from support.process import run

pytestmark = pytest.mark.session

INSIDE = {  # path: (target in the session, as it is read here)
    "a": ("sub/file", "sub/file"), "sub/up": ("../top", "../top"), "sub/deep/up2": ("../../top", "../../top"),
    "sub/root": ("..", ".."), "dots": ("..file", "..file"), "sub/slashes": ("..//.//top", "..//.//top"),
    "abs": ("/mnt/data/top", "top"), "sub/deep/abs": ("/mnt/data/sub/file", "../../sub/file"),
    "sub/absroot": ("/mnt/data", ".."), "here": ("/mnt/data/", "."), "loop": ("loop", "loop")}
OUTSIDE = {
    "e1": "/etc/passwd", "e2": "../secret", "sub/e3": "../../secret", "sub/deep/e4": "../../../secret", "e5": "sub/../../secret",
    "sub/e6": "deep/../../../secret", "e7": "/mnt/data/../../etc/passwd", "e8": "/mnt/database/x", "e9": "..", "e10": "//etc/passwd",
    "e11": "./../secret", "e12": "/", "e13": "/mnt/data/sub/..", "sub/e14": "up/../secret", "e15": "/proc/self/root/etc/passwd"}


@pytest.fixture
def full(mounts, pool, session):
    """A mount of a session with all of these; a secret lies beside the mount point."""
    pool.run(session, f"""
import os
os.chdir('/mnt/data')
os.makedirs('sub/deep')
for name in ('top', 'sub/file', '..file'):
    open(name, 'w').write(name)
for path, target in {({path: target for path, (target, _) in INSIDE.items()} | OUTSIDE)!r}.items():
    os.symlink(target, path)
""")

    def make(*options):
        mount = mounts(session=session, options=list(options))
        (mount.path.parent / "secret").write_text("secret")
        return mount
    return make


def test_those_inside_lead_where_they_say(full):
    mount = full()
    for path, (_, here) in INSIDE.items():
        assert os.readlink(mount / path) == here, path
    for path, name in {"a": "sub/file", "sub/up": "top", "sub/deep/up2": "top", "abs": "top", "sub/deep/abs": "sub/file",
                       "dots": "..file", "sub/slashes": "top"}.items():
        assert (mount / path).read_text() == name
    assert "symlink" not in mount.said()


def test_those_outside_lead_nowhere(full):
    mount = full()
    for path in OUTSIDE:
        for act in (os.readlink, os.stat, os.listdir, lambda p: open(p).close(), lambda p: open(p, "w").close()):
            with pytest.raises(OSError) as error:
                act(mount / path)
            assert error.value.errno == errno.EPERM, (path, act)
        assert os.path.islink(mount / path)
    assert (mount.path.parent / "secret").read_text() == "secret"
    assert mount.said().count("leads out of the session") == 1
    os.rename(mount / "e1", mount / "renamed")
    os.unlink(mount / "renamed")
    assert not os.path.lexists(mount / "renamed")


def test_what_is_wanted_is_shown(full):
    mount = full("symlinks=follow")
    for path, target in OUTSIDE.items():
        assert os.readlink(mount / path) == target
    assert (mount / "e2").read_text() == "secret"
    assert os.readlink(mount / "abs") == "/mnt/data/top"


def test_links_made_here_are_their_maker_s(full, pool, session):
    mount = full("attr-timeout=0")
    (mount.path.parent / "secret").write_text("secret")
    os.symlink("../secret", mount / "mine")
    mount.control("refresh")
    assert (mount / "mine").read_text() == "secret"
    pool.run(session, "import os; os.remove('/mnt/data/mine'); os.symlink('/etc/passwd', '/mnt/data/mine')")
    mount.control("refresh")
    with pytest.raises(PermissionError):
        os.readlink(mount / "mine")


def test_a_copy_takes_nothing_along(full, tmp_path):
    mount = full()
    done = run(["cp", "-rL", mount.path, tmp_path / "copy"], check=False)
    assert done.returncode != 0
    assert "secret" not in run(["grep", "-rhs", "secret", tmp_path / "copy"], check=False).stdout
