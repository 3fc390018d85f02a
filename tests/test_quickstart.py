"""The first thing a newcomer does, and what the README says about it."""

import os
import re
import signal
from pathlib import Path

import pytest

from support import process
from support.mount import mounted
from support.wait import wait_for
from test_mount_life import listener

pytestmark = [pytest.mark.session, pytest.mark.limit(120)]

TOP = Path(__file__).resolve().parents[1]


@pytest.fixture
def quickstart(tmp_path, runtime):
    """Runs src/quickstart with the build under test and a pool of its own."""
    def run(*arguments, **how):
        env = process.environment(HOME=tmp_path, XDG_RUNTIME_DIR=runtime, XDG_CACHE_HOME=tmp_path / "cache",
                                  ACAFS_CONFIG=os.devnull, ACAFS_BUILD=process.BUILD)
        return process.run([TOP / "src/quickstart", *arguments], env=env, cwd=tmp_path, timeout=110, **how)
    yield run
    for folder in (tmp_path / "acafs-session", tmp_path / "mine"):
        if mounted(folder):
            process.run(["fusermount3", "-u", folder])
    socket = runtime / "acafs/pool.sock"
    if socket.exists():
        pid = listener(socket)
        os.kill(pid, signal.SIGTERM)
        wait_for(lambda: not os.path.exists(f"/proc/{pid}"), 20, "the pool ending")


def test_quickstart(quickstart, tmp_path):
    out = quickstart().stdout
    for seen in ("temperatures.py.stdout", "temperatures.py.result", "summary.txt", "2026-06-05   79.3 F",
                 '"warmest"', "7 days, mean 70.6 F"):
        assert seen in out, f"{seen!r} is not in:\n{out}"
    assert not mounted(tmp_path / "acafs-session") and not (tmp_path / "acafs-session").exists()


def test_quickstart_keeps_the_mount(quickstart, tmp_path):
    out = quickstart("--keep", "mine").stdout
    folder = tmp_path / "mine"
    assert mounted(folder) and f"fusermount3 -u {folder}" in out
    assert (folder / "summary.txt").read_text() == "7 days, mean 70.6 F\n"


def test_quickstart_in_the_way_of_nothing(quickstart, tmp_path):
    done = quickstart("--nonsense", check=False)
    assert done.returncode == 64 and "--nonsense" in done.stderr


_FUSE = """set -e
mknod -m "$1" "$2/fuse" c 10 229
mount --bind "$2/fuse" /dev/fuse
exec setpriv --reuid=65534 --regid=65534 --clear-groups bash -c "$3"
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make devices")
@pytest.mark.parametrize("mode, code, said", [("666", 0, ""), ("600", 1, "As root: chmod 666 /dev/fuse")])
def test_a_user_without_rights_to_fuse_is_told_so(tmp_path, mode, code, said):
    done = process.run(["unshare", "--mount", "bash", "-c", _FUSE, "bash", mode, tmp_path,
                        (TOP / "src/packages.sh").read_text() + "need_fuse\n"], check=False)
    assert done.returncode == code and said in done.stderr and bool(said) == bool(done.stderr), done.stderr


@pytest.fixture
def readme():
    return (TOP / "README.md").read_text()


def test_the_readme_names_files_that_exist(readme):
    for name in set(re.findall(r"(?<![\w/.])(?:src|tests|etc|systemd)/[\w./@-]*\w", readme)):
        assert (TOP / name).exists(), f"README.md names {name}"


def test_the_readme_has_every_option(readme):
    told = process.run([process.ACAFS, "config", "--options"], env=process.environment()).stdout
    options = set(re.findall(r"^([a-z][a-z-]+_?[a-z]*)=", told, re.M))
    assert len(options) > 10, told
    missing = [option for option in options if f"`{option}" not in readme]
    assert not missing, f"README.md lacks {missing}"


def test_the_readme_gives_each_package_its_reason(readme):
    lists = re.findall(r"packages_\w+=\(([^)]*)\)", (TOP / "src/packages.sh").read_text())
    missing = [name for text in lists for name in text.split() if f"`{name}`" not in readme]
    assert not missing, f"README.md lacks {missing}"
