"""systemd's own opinion of the units, as they are installed."""

import re
import shutil
from pathlib import Path

import pytest

from support import process

TOP = Path(__file__).resolve().parents[1]
pytestmark = pytest.mark.skipif(not shutil.which("systemd-analyze"), reason="without systemd")
NAMES = ["acafs@.service", "acapool.service", "acapool.socket", "srv-session.mount", "srv-session.automount"]


@pytest.fixture(scope="module")
def installed(tmp_path_factory):
    """What `meson install` puts into place."""
    root = tmp_path_factory.mktemp("installed")
    process.run(["meson", "install", "-C", process.BUILD, "--no-rebuild", "--quiet", "--destdir", root])
    return root


@pytest.fixture(scope="module")
def units(installed, tmp_path_factory):
    """All units in one folder, naming the programs where they are now; two instances of the mount's."""
    folder = tmp_path_factory.mktemp("units")
    found = {path.name: path for path in installed.rglob("*") if path.suffix in (".service", ".socket", ".mount", ".automount")}
    assert sorted(found) == sorted(NAMES)
    for name, path in found.items():
        text = re.sub(r"/\S+/(acafs|acapool)(?= -)", lambda match: str(next(installed.rglob(f"*bin/{match[1]}"))),
                      path.read_text())
        (folder / name).write_text(text)
    for identifier in ("alice-2026", "a|b&c%d$e#(f){g}[h];<i>"):
        name, = process.run(["systemd-escape", "--template=acafs@.service", identifier]).stdout.split()
        shutil.copy(folder / "acafs@.service", folder / name)
    return folder


def test_they_are_where_systemd_looks(installed):
    where = {path.parent.relative_to(installed).as_posix() for path in installed.rglob("ac*.s*") if path.name in NAMES}
    place, = where
    assert re.fullmatch(r"(usr/local/lib|usr/lib|lib|.+/lib)/systemd/system", place)


def test_they_are_sound(units):
    for unit in sorted(units.iterdir()):
        done = process.run(["systemd-analyze", "verify", "--man=no", unit], check=False,
                           env=process.environment(SYSTEMD_UNIT_PATH=f"{units}:"))
        assert done.returncode == 0 and not done.stderr, f"{unit.name}:\n{done.stderr}"


@pytest.mark.parametrize("name, most", [("acafs@.service", 4.0), ("acapool.service", 3.0)])
def test_they_are_hardened(units, name, most):
    out = process.run(["systemd-analyze", "security", "--offline=true", "--no-pager", units / name], check=False).stdout
    level = float(re.search(r"exposure level for \S+: ([\d.]+)", out)[1])
    assert level <= most, out


def test_the_mount_is_seen_outside(units):
    """Each of these gives a service its own file system view, where its mounts would stay."""
    text = (units / "acafs@.service").read_text()
    own_view = r"^(ProtectSystem|ProtectHome|Protect(Kernel\w+|ControlGroups|Proc)|Private(Tmp|Devices|Mounts)|" \
               r"MountFlags|DynamicUser|RootDirectory|\w+Paths|RuntimeDirectory)="
    assert not re.search(own_view, text, re.M)


def test_nothing_else_is_installed_over(installed):
    """A configuration that somebody wrote stays as it is."""
    assert not list(installed.rglob("etc/acafs*"))
    assert list(installed.rglob("doc/acafs/examples/acafs.conf")) and list(installed.rglob("man8/acafs.8"))
    completions = next(installed.rglob("completions"))
    assert all((completions / program).exists() for program in ("acafs", "acarun", "acapool"))


def test_the_user_and_the_directory(installed):
    users = next(installed.rglob("sysusers.d/acafs.conf"))
    if shutil.which("systemd-sysusers"):
        said = process.run(["systemd-sysusers", "--dry-run", users], check=False)
        assert said.returncode == 0, said.stderr
    line, = [line for line in next(installed.rglob("tmpfiles.d/acafs.conf")).read_text().splitlines()
             if not line.startswith("#")]
    assert line.split()[:5] == ["d", "/run/acapool", "0700", "acafs", "acafs"]
