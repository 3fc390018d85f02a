"""What `meson install` and `meson dist` give."""

import os
import re
import subprocess
import tarfile
from pathlib import Path

import pytest

from support import process
from support.mount import mounted
from support.wait import wait_for
from test_mount_life import listener

TOP = Path(__file__).resolve().parents[1]
MESON = ["/usr/bin/python3", "/usr/bin/meson"]
pytestmark = [pytest.mark.session, pytest.mark.limit(120)]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    root = tmp_path_factory.mktemp("installed")
    process.run([*MESON, "install", "-C", process.BUILD, "--no-rebuild", "--quiet"],
                env={**os.environ, "DESTDIR": str(root)})
    return root


@pytest.fixture(scope="module")
def prefix(installed):
    return next(installed.rglob("sbin/acafs")).parents[1]


def version():
    return re.search(r"version: '(.*)'", (TOP / "meson.build").read_text())[1]


def test_every_program_tells_the_version(prefix):
    for program in ("sbin/acafs", "bin/acarun", "bin/acapool"):
        said = process.run([prefix / program, "--version"]).stdout
        assert said == f"{Path(program).name} {version()}\n"


def test_nothing_installed_knows_where_it_was_put_or_built(installed):
    for path in installed.rglob("*"):
        if path.is_symlink():
            assert not os.readlink(path).startswith("/"), path
        elif path.is_file() and "bin" not in path.parts[-2]:
            text = path.read_bytes()
            for folder in (installed, process.BUILD, TOP):
                assert os.fsencode(folder) + b"/" not in text, path


def test_it_finds_its_pool_without_a_path(prefix, tmp_path, runtime, session):
    """As mount(8) starts it: nothing in the environment but where this test's pool may be."""
    point = tmp_path / "point"
    point.mkdir()
    env = {"HOME": str(tmp_path), "XDG_RUNTIME_DIR": str(runtime), "ACAFS_CONFIG": os.devnull,
           "XDG_CACHE_HOME": str(tmp_path / "cache"), "LC_ALL": "C.UTF-8",
           "ASAN_OPTIONS": os.environ.get("ASAN_OPTIONS", "")}
    process.run([prefix / "sbin/acafs", f"local#{session}", point], env=env)
    try:
        pid = listener(runtime / "acafs/pool.sock")
        assert os.readlink(f"/proc/{pid}/exe") == str((prefix / "bin/acapool").resolve())
    finally:
        process.run(["fusermount3", "-u", point])
        os.kill(pid, 15)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 20, "the pool ending")
    assert not mounted(point)


def test_a_cache_without_a_home_variable(tmp_path):
    """The user's home is known by other means."""
    said = process.run([process.ACAFS, "config"], env={"ACAFS_CONFIG": os.devnull}, check=False).stdout
    assert re.search(r"^#? *dir = /\S*/acafs\b", said, re.M), said


def test_the_package_is_tested_without_a_sandbox():
    """Which a machine that builds packages may have no programs for, and not allow."""
    arguments = re.search(r"dh_auto_test -- (.*)", (TOP / "src/package/debian/rules").read_text())[1].split()
    listed = process.run([*MESON, "test", "-C", process.BUILD, "--no-rebuild", "--list", *arguments]).stdout
    assert listed.count("\n") > 10 and "util" in listed and "session_pool" not in listed


def test_dist(tmp_path):
    """A clean checkout makes a tarball of all that is committed, which can be configured without git."""
    if subprocess.run(["git", "-C", TOP, "rev-parse"], capture_output=True).returncode:
        pytest.skip("not a checkout")
    clone = tmp_path / "clone"
    process.run(["git", "clone", "--quiet", "--no-local", TOP, clone])
    process.run([*MESON, "setup", tmp_path / "build", clone])
    process.run([*MESON, "dist", "-C", tmp_path / "build", "--no-tests"])
    name = f"acafs-{version()}"
    with tarfile.open(tmp_path / f"build/meson-dist/{name}.tar.xz") as tar:
        files = {member.name for member in tar if not member.isdir()}
        tar.extractall(tmp_path)
    committed = process.run(["git", "-C", clone, "ls-files"]).stdout.splitlines()
    assert files == {f"{name}/{path}" for path in committed}
    process.run([*MESON, "setup", tmp_path / "again", tmp_path / name])
