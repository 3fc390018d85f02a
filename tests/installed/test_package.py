"""The Debian package on a machine that has nothing else: what its administrator and users do and see.

The tests build upon each other and come in this order."""

import os
import re
import signal

import pytest

from support.wait import wait_for

pytestmark = pytest.mark.limit(600)

POOL = "http://127.0.0.1:6001"
PROGRAMS = ["acafs", "mount.acafs", "mount.fuse.acafs", "bwrap", "acapool"]
TOKEN = "s3cret-of-the-pool"
PLAIN, ODD, HERS = "alice-2026", "we|you&{50%I}^_$HOME#(x)[y];<z>%%", "team-alice"


def unit_of(session):
    """As systemd-escape does it."""
    return "acafs@" + "".join(c if re.match(r"[\w.:]", c) else f"\\x{ord(c):02x}" for c in session) + ".service"


def place_of(session):
    return "/run/acafs/" + unit_of(session)[len("acafs@"):-len(".service")]


@pytest.fixture(scope="module")
def tcp_pool(machine):
    """A pool on a port, whose token comes from the administrator's file."""
    machine.write("etc/acafs/token", TOKEN, mode=0o600)
    machine.write("etc/systemd/system/tcp-pool.service", f"""\
[Service]
Type=exec
ExecStart=/usr/bin/acapool --listen {POOL.split('/')[-1]} --token-file %d/token
LoadCredential=token:/etc/acafs/token
User=acafs
PrivateTmp=yes
[Install]
WantedBy=multi-user.target
""")
    machine.run("systemctl daemon-reload; systemctl enable --now tcp-pool")


class frozen:
    """The pool takes no notice of anybody, meanwhile."""

    def __init__(self, machine):
        self.machine = machine

    def _signal(self, name):
        self.machine.run(["systemctl", "kill", "--kill-who=main", f"--signal={name}", "tcp-pool"])

    def __enter__(self):
        self._signal("STOP")

    def __exit__(self, *_):
        self._signal("CONT")


def status_line(machine, session):
    return machine.show(unit_of(session), "StatusText")["StatusText"]


def in_session(machine, code, session=HERS):
    """What the pool itself says, without the mount: a Python expression there, as alice."""
    return machine.said(["env", "ACAFS_TOKEN_FILE=/home/alice/token", "acarun", "--pool", POOL, "--session", session,
                         "-c", f"print({code})"], user="alice")


def becomes_active(machine, session, deadline=60):
    wait_for(lambda: machine.show(unit_of(session), "ActiveState")["ActiveState"] == "active", deadline,
             f"{session} is mounted", every=0.3)


def main_pid(machine, session):
    """On this machine, not in the tested one."""
    inner = machine.show(unit_of(session), "MainPID")["MainPID"]
    for pid in machine.processes("acafs"):
        with open(f"/proc/{pid}/status") as status:
            if re.search(rf"^NSpid:.*\t{inner}$", status.read(), re.M):
                return pid
    raise AssertionError(f"no daemon {inner}")


def daemons_of(machine, place):
    """On this machine."""
    return [pid for pid in machine.processes("acafs", "mount.acafs", "mount.fuse.acafs") if place in command_line(pid)]


def command_line(pid):
    try:
        with open(f"/proc/{pid}/cmdline") as source:
            return source.read().split("\0")
    except OSError:
        return []


# --- installing

def install(machine, package):
    said = machine.said(f"apt-get install -y /root/{package.name} 2>&1", timeout=600)
    own = said.partition("Setting up acafs ")[2].partition("Processing triggers")[0]
    complaints = [line for line in own.splitlines()[1:] if line and not line.startswith(("Creating user", "Creating group"))]
    assert complaints == []


def test_it_installs(machine, package):
    install(machine, package)
    assert machine.said("systemctl is-system-running") == "running"
    assert machine.processes(*PROGRAMS) == [] and machine.mounts() == {}
    assert machine.said("getent passwd acafs").endswith(":/usr/sbin/nologin")
    assert machine.said("stat -c '%U %G %a' /run/acapool") == "acafs acafs 700"
    assert machine.said("systemctl is-enabled acapool.socket", check=False) == "disabled"


def test_the_programs_know_their_version(machine):
    version = machine.said("dpkg-query -W -f '${Version}' acafs").rpartition("-")[0]
    for program in ("acafs", "acarun", "acapool"):
        assert machine.said([program, "--version"]) == f"{program} {version}"


def test_every_page_is_there(machine):
    for page in ("man8/acafs.8", "man8/acapool.8", "man8/mount.acafs.8", "man8/mount.fuse.acafs.8",
                 "man8/umount.fuse.acafs.8", "man1/acarun.1", "man5/acafs.conf.5"):
        assert machine.said(["gzip", "-dc", f"/usr/share/man/{page}.gz"]).startswith((".TH", ".so"))


def test_users(machine):
    machine.run("useradd --create-home alice && useradd --create-home bob")


# --- two sessions by units, of the pool of this machine

def test_two_sessions_by_units(machine):
    machine.run(["systemctl", "enable", "--now", "acapool.socket", unit_of(PLAIN), unit_of(ODD)])
    assert machine.said(["systemd-escape", "--template=acafs@.service", ODD]) == unit_of(ODD)
    for session in (PLAIN, ODD):
        assert machine.show(unit_of(session), "ActiveState", "User") == {"ActiveState": "active", "User": "acafs"}
        assert status_line(machine, session) == "Mounted, every file is in the session"
    assert sorted(machine.mounts()) == sorted([place_of(PLAIN), place_of(ODD)])
    assert machine.said(["systemctl", "status", "--no-pager", unit_of(PLAIN)]).count('Status: "Mounted, ') == 1
    assert len(machine.processes("acapool")) == 1


def test_they_are_for_all_to_read(machine):
    place = place_of(PLAIN)
    machine.run(f"echo 'for everyone' > '{place}/note'; echo mine > '{place}/own'; chmod 600 '{place}/own'",
                user="acafs")
    assert machine.said(["stat", "-c", "%U %G %a", f"{place}/note", f"{place}/own"]) == "acafs acafs 644\nacafs acafs 600"
    assert machine.said(["cat", f"{place}/note"], user="bob") == "for everyone"
    assert machine.run(["cat", f"{place}/own"], user="bob", check=False).returncode == 1
    assert machine.run(f"echo > '{place}/bobs'", user="bob", check=False).returncode != 0
    assert machine.run(["cat", f"{place}/.acafs/status"], user="bob", check=False).returncode == 1
    assert machine.run(["ls", place_of(ODD)]).stdout == ""


def test_the_log_tells_of_it(machine):
    lines = machine.journal("--unit", unit_of(PLAIN), "--output=short")
    assert f"mounted on {place_of(PLAIN)}" in lines
    assert machine.said(["acafs", "list"]).count("\n") == 1


def test_a_session_is_unmounted_by_stopping_its_unit(machine):
    machine.run(["systemctl", "stop", unit_of(ODD)])
    assert machine.show(unit_of(ODD), "Result") == {"Result": "success"}
    assert place_of(ODD) not in machine.mounts() and not machine.run(["ls", place_of(ODD)], check=False).stdout
    machine.run(["systemctl", "start", unit_of(ODD)])


# --- settings

def test_settings_come_from_where_they_should(machine):
    """What comes later wins, and it is told from where each is."""
    files = {"etc/acafs/acafs.conf": "max-retries = 1\nmax-transfers = 1\ntimeout-read = 11",
             "etc/acafs/conf.d/10-first.conf": "max-retries = 2\nmax-transfers = 2",
             "etc/acafs/conf.d/9-last.conf": "max-retries = 3",  # in the order of their letters
             "etc/acafs/conf.d/not-one": "nonsense",
             "home/alice/.config/acafs/acafs.conf": "max-transfers = 4"}
    for file, text in files.items():
        machine.write(file, f"[pool]\n{text}\n")
    said = machine.said(["env", "ACAFS_TIMEOUT_CONNECT=12", "acafs", "config"], user="alice")
    found = {key: (value, origin) for key, value, origin in re.findall(r"^([a-z-]+) = (\S+) +; (.*)$", said, re.M)}
    assert found["timeout-read"] == ("11", "/etc/acafs/acafs.conf:4")
    assert found["max-retries"] == ("3", "/etc/acafs/conf.d/9-last.conf:2")
    assert found["max-transfers"] == ("4", "/home/alice/.config/acafs/acafs.conf:2")
    assert found["timeout-connect"] == ("12", "ACAFS_TIMEOUT_CONNECT")
    assert found["dir"] == ("/home/alice/.cache/acafs", "default")
    machine.write("etc/acafs/conf.d/10-first.conf", "[pool]\nretries = 2\n")
    done = machine.run(["acafs", "local", "/mnt"], check=False)
    assert (done.returncode, done.stderr) == (78, "acafs: /etc/acafs/conf.d/10-first.conf:2: unknown key retries\n")
    for file in files:
        (machine / file).unlink()


# --- one of her own, in a pool with a token

def test_a_drop_in_for_a_user(machine, tcp_pool):
    """Names are believed for long, so that what is written while the pool is frozen asks it nothing."""
    machine.write(f"etc/systemd/system/{unit_of(HERS)}.d/override.conf", """\
[Service]
User=alice
Environment=ACAFS_ALLOW_OTHER=no
LoadCredential=pool-token:/etc/acafs/token
""")
    machine.write("etc/acafs/acafs.conf", f"""\
[pool]
timeout-connect = 2
timeout-read = 5
[mount]
unmount-timeout = 3
attr-timeout = 600
[session {HERS}]
endpoint = {POOL}
token-file = pool-token
""")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "enable", "--now", unit_of(HERS)])
    assert machine.said(["stat", "-c", "%U %a", place_of(HERS)], user="alice") == "alice 755"
    for other in ("bob", "acafs", None):
        assert machine.run(["ls", place_of(HERS)], user=other, check=False).returncode == 2


def test_she_runs_a_script(machine):
    machine.write("home/alice/six.py", "import sys\nprint(6 * 7, *sys.argv[1:])\nopen('made', 'w').write('x')\n")
    done = machine.run(f"cd '{place_of(HERS)}' && cp ~/six.py . && acarun six.py 'a b' && ls && cat six.py.stdout",
                       user="alice")
    assert done.stdout.split("\n") == ["42 a b", "made", "six.py", "six.py.result", "six.py.stderr", "six.py.stdout",
                                       "42 a b", ""]


def test_the_token_is_nowhere_to_be_seen(machine):
    assert TOKEN not in machine.journal()
    for pid in machine.processes("acafs", "acapool"):
        for file in ("cmdline", "environ"):
            with open(f"/proc/{pid}/{file}", "rb") as source:
                assert TOKEN.encode() not in source.read()
    assert machine.run(["cat", "/etc/acafs/token"], user="alice", check=False).returncode == 1
    # For acarun without the mount, from here on:
    machine.write("home/alice/token", TOKEN, mode=0o600)
    machine.run("chown alice: /home/alice/token")


# --- nothing is lost

def write_pending(machine, name, text):
    """A file that can't be in the session yet."""
    machine.run(f"echo {text} > '{place_of(HERS)}/{name}'", user="alice")
    wait_for(lambda: re.search(r", \d+ files \(\d+ bytes\) not in the session yet", status_line(machine, HERS)), 20,
             "the status tells of pending files")


def test_a_restart_loses_nothing(machine):
    """The pool is away and stays away while the daemon ends: the next one goes on."""
    with frozen(machine):
        write_pending(machine, "late", "restarted")
        assert machine.run(["systemctl", "restart", unit_of(HERS)], check=False).returncode != 0
    becomes_active(machine, HERS)
    machine.run(["acafs", "sync", place_of(HERS)], user="alice")
    assert in_session(machine, "open('/mnt/data/late').read()") == "restarted"
    wait_for(lambda: status_line(machine, HERS) == "Mounted, every file is in the session", 20, "the status tells")
    log = machine.journal("--unit", unit_of(HERS), "--output=cat")
    assert "not on the server: late (10 bytes)" in log and "stay in the journal" in log


def test_a_killed_daemon_loses_nothing(machine):
    with frozen(machine):
        write_pending(machine, "later", "killed")
        os.kill(main_pid(machine, HERS), signal.SIGKILL)
    wait_for(lambda: machine.show(unit_of(HERS), "NRestarts")["NRestarts"] != "0", 30, "it is started again")
    becomes_active(machine, HERS)
    machine.run(["acafs", "sync", place_of(HERS)], user="alice")
    assert in_session(machine, "open('/mnt/data/later').read()") == "killed"


def test_cleaning_caches_loses_nothing(machine):
    """An administrator makes room while a unit is down that could not send all."""
    with frozen(machine):
        write_pending(machine, "latest", "cleaned")
        machine.run(["systemctl", "stop", unit_of(HERS)])
    machine.run(["systemctl", "clean", "--what=cache", unit_of(HERS)], check=False)
    machine.run("rm -rf /var/cache/acafs")
    machine.run(["systemctl", "start", unit_of(HERS)])
    machine.run(["acafs", "sync", place_of(HERS)], user="alice")
    assert in_session(machine, "open('/mnt/data/latest').read()") == "cleaned"


def test_a_daemon_that_hangs_is_replaced(machine):
    """The watchdog's time is shortened: the unit's is a minute."""
    machine.write(f"etc/systemd/system/{unit_of(HERS)}.d/watchdog.conf", "[Service]\nWatchdogSec=2\n")
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "restart", unit_of(HERS)])
    before = main_pid(machine, HERS)
    machine.run(f"echo hung > '{place_of(HERS)}/last'", user="alice")
    os.kill(before, signal.SIGSTOP)
    wait_for(lambda: "Watchdog timeout" in machine.journal("--unit", unit_of(HERS)), 60, "the watchdog barks", every=0.3)
    wait_for(lambda: not os.path.exists(f"/proc/{before}"), 60, "the hanging daemon is gone")
    becomes_active(machine, HERS)
    assert machine.said(["cat", f"{place_of(HERS)}/last"], user="alice") == "hung"
    (machine / f"etc/systemd/system/{unit_of(HERS)}.d/watchdog.conf").unlink()


# --- fstab

FSTAB = f"""\
{POOL}#fstab-one /srv/one acafs _netdev,nofail,allow_other,token-file=/etc/acafs/token 0 0
{POOL}#fstab-two /srv/two fuse.acafs _netdev,noauto,setuid=alice,token-file=/home/alice/token 0 0
{POOL}#fstab-three /srv/three acafs _netdev,nofail,allow_other,uid=bob,gid=bob,umask=077,token-file=/etc/acafs/token 0 0
{POOL}#fstab-four /srv/four acafs _netdev,noauto,user,token-file=/home/alice/token 0 0
http://127.0.0.1:6999#fstab-away /srv/away acafs _netdev,nofail,token-file=/etc/acafs/token 0 0
"""


def test_fstab(machine):
    machine.run("cd /srv && mkdir one two three four away && chown alice: two four")
    machine.write("etc/fstab", FSTAB)
    machine.run(["systemctl", "daemon-reload"])
    done = machine.run(["mount", "--all"], check=False)
    assert {"/srv/one", "/srv/three"} <= set(machine.mounts()) and "/srv/away" not in machine.mounts(), done.stderr
    assert "127.0.0.1:6999" in done.stderr
    assert "allow_other" in machine.mounts()["/srv/one"]
    machine.run("echo everyone > /srv/one/note; echo own > /srv/one/own; chmod 600 /srv/one/own")
    assert machine.said("cat /srv/one/note", user="bob") == "everyone"
    assert machine.run("cat /srv/one/own", user="bob", check=False).returncode == 1
    assert machine.show("srv-one.mount", "ActiveState") == {"ActiveState": "active"}


def test_fstab_as_a_user(machine):
    machine.run(["mount", "/srv/two"])
    machine.run("cd /srv/two && echo 'print(6 * 7)' > a.py && acarun a.py", user="alice")
    assert machine.said(["stat", "-c", "%U %G", "/srv/two/a.py.stdout"], user="alice") == "alice alice"
    assert machine.run(["ls", "/srv/two"], user="bob", check=False).returncode == 2
    assert machine.said("acafs status /srv/two", user="alice")


def test_fstab_by_a_user(machine):
    """Who may mount it, and unmount it."""
    assert machine.run(["mount", "/srv/four"], user="bob", check=False).returncode != 0
    machine.run(["mount", "/srv/four"], user="alice")
    machine.run("echo hers > /srv/four/note", user="alice")
    assert machine.run(["ls", "/srv/four"], user="bob", check=False).returncode == 2
    assert machine.run(["umount", "/srv/four"], user="bob", check=False).returncode != 0
    machine.run(["umount", "/srv/four"], user="alice")
    assert "/srv/four" not in machine.mounts()
    wait_for(lambda: not daemons_of(machine, "/srv/four"), 60, "its daemon's end")
    assert in_session(machine, "open('/mnt/data/note').read()", "fstab-four") == "hers"


def test_fstab_with_owner_and_umask(machine):
    machine.run("cd /srv/three && acarun -c 'open(\"made\", \"w\")'")
    machine.run("echo 1 > /srv/three/note; chmod 640 /srv/three/note", user="bob")
    assert machine.said("stat -c '%U %G %a' /srv/three /srv/three/made /srv/three/note").splitlines() == \
        ["bob bob 700", "bob bob 600", "bob bob 640"]
    assert machine.run(["ls", "/srv/three"], user="alice", check=False).returncode == 2


def test_remount(machine):
    machine.run(["mount", "-o", "remount,ro", "/srv/one"])
    assert "ro" in machine.mounts()["/srv/one"]
    assert "Read-only file system" in machine.run("echo > /srv/one/more", check=False).stderr
    assert machine.said("cat /srv/one/note") == "everyone"
    machine.run(["mount", "-o", "remount,rw,noexec", "/srv/one"])
    assert {"rw", "noexec", "nosuid", "nodev"} < set(machine.mounts()["/srv/one"])
    machine.run("echo > /srv/one/more")


def test_fstab_at_first_use(machine):
    machine.run("mkdir /srv/auto")
    machine.write("etc/fstab", FSTAB + f"{POOL}#fstab-auto /srv/auto acafs _netdev,nofail,allow_other,"
                  "x-systemd.automount,x-systemd.mount-timeout=1min,token-file=/etc/acafs/token 0 0\n")
    machine.run("systemctl daemon-reload; systemctl start srv-auto.automount")
    assert "/srv/auto" not in machine.mounts()
    machine.run("echo 1 > /srv/auto/note")
    assert "/srv/auto" in machine.mounts()
    assert machine.said(["cat", "/srv/auto/note"], user="bob") == "1"


def test_umount(machine):
    machine.run(["umount", "/srv/three"])
    assert "/srv/three" not in machine.mounts()
    machine.run(["mount", "-t", "fuse.acafs", "-o", "token-file=/etc/acafs/token", f"{POOL}#by-hand", "/srv/three"])
    machine.run(["umount", "/srv/three"])
    assert "/srv/three" not in machine.mounts()


def test_systemd_waits_for_the_end_of_a_mount(machine):
    """As when the machine is shut down. This one is alice's, root can't look into it; and its pool says nothing for as
    long as its daemon waits for that."""
    with frozen(machine):
        machine.run("echo late > /srv/two/late", user="alice")
        machine.run(["systemctl", "stop", "srv-two.mount"])
        assert "/srv/two" not in machine.mounts() and not daemons_of(machine, "/srv/two")
    assert "/srv/two is unmounted; waiting until what is pending is in the session" in machine.journal()
    assert machine.show("srv-two.mount", "Result") == {"Result": "success"}
    machine.run(["mount", "/srv/two"])
    assert machine.said("cat /srv/two/late", user="alice") == "late"
    machine.run(["umount", "/srv/two"])


def test_umount_loses_nothing(machine):
    with frozen(machine):
        machine.run("echo late > /srv/one/late && umount /srv/one")
    wait_for(lambda: not daemons_of(machine, "/srv/one"), 60, "its daemon's end")
    machine.run(["mount", "/srv/one"])
    assert machine.said("cat /srv/one/late") == "late"


def test_automount(machine):
    """The package's example, for this pool and less patient."""
    for kind, changes in (("mount", [(r"^What=.*", f"What={POOL}#on-demand"),
                                     (r"^Options=.*", "Options=_netdev,allow_other,token-file=/etc/acafs/token")]),
                          ("automount", [(r"^TimeoutIdleSec=.*", "TimeoutIdleSec=2s")])):
        text = (machine / f"usr/share/doc/acafs/examples/srv-session.{kind}").read_text()
        for pattern, instead in changes:
            text, count = re.subn(pattern, instead, text, flags=re.M)
            assert count == 1
        machine.write(f"etc/systemd/system/srv-session.{kind}", text)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "enable", "--now", "srv-session.automount"])
    assert "/srv/session" not in machine.mounts()
    machine.run("echo 1 > /srv/session/note")
    assert "/srv/session" in machine.mounts()
    wait_for(lambda: "/srv/session" not in machine.mounts(), 60, "it is unmounted when nobody uses it", every=0.3)
    assert machine.said("cat /srv/session/note") == "1"


# --- the machine is started anew

def test_a_reboot_with_pending_files(machine):
    """Everything comes back by itself, but what can't be reached, which keeps nobody waiting; and what could not be
    sent goes up."""
    machine.run(["systemctl", "stop", "tcp-pool"])
    write_pending(machine, "rebooted", "unit")
    machine.run("echo fstab > /srv/one/rebooted")
    machine.shut_down()
    machine.boot()
    assert {place_of(PLAIN), place_of(ODD), place_of(HERS), "/srv/one"} <= set(machine.mounts())
    assert "/srv/auto" not in machine.mounts()
    failed = machine.said("systemctl list-units --failed --plain --no-legend")
    assert [line.split()[0] for line in failed.splitlines()] == ["srv-away.mount"], failed
    machine.run(["acafs", "sync", place_of(HERS)], user="alice")
    machine.run(["acafs", "sync", "/srv/one"])
    for session, text in ((HERS, "unit"), ("fstab-one", "fstab")):
        assert in_session(machine, "open('/mnt/data/rebooted').read()", session) == text
    machine.run("ls /srv/auto")
    assert "/srv/auto" in machine.mounts()


def test_a_power_cut_with_pending_files(machine):
    """The machine's pools lose their sessions by it; what was closed here and never sent comes into new ones."""
    with frozen(machine):
        write_pending(machine, "precious", "dark")
        machine.kill()
        machine.boot()
    becomes_active(machine, HERS)
    machine.run(["acafs", "sync", place_of(HERS)], user="alice")
    assert in_session(machine, "open('/mnt/data/precious').read()") == "dark"
    assert machine.said(["cat", f"{place_of(HERS)}/precious"], user="alice") == "dark"


# --- removing

def own_paths(machine):
    """What there is of acafs, apart from what these tests put there themselves and what dpkg logs."""
    found = machine.said("find / -xdev \\( -path /root -o -path /proc -o -path /sys -o -path /home -o -path /tmp "
                         "-o -path /var/log -o -path /var/cache/apt \\) -prune -o "
                         "\\( -name '*acafs*' -o -name '*acapool*' -o -name '*acarun*' \\) -print; "
                         "find /run -xdev -name '*aca[fpr]*'")
    mine = ("/etc/acafs", "/etc/systemd/system/acafs@")
    return [path for path in found.splitlines() if not path.startswith(mine) and "/transient/" not in path]


def remove(machine):
    return machine.said("apt-get remove --purge -y acafs 2>&1", timeout=400)


def test_it_is_removed_and_keeps_what_is_nowhere_else(machine, package):
    """A pool that does not answer while the package goes: the file is there when both are back."""
    with frozen(machine):
        write_pending(machine, "unsent", "kept")
        said = remove(machine)
    assert "/var/lib/acafs is kept" in said
    assert machine.mounts() == {} and machine.processes(*PROGRAMS[:3]) == []
    wait_for(lambda: not machine.processes(*PROGRAMS), 30, "the pool hears of its end when it wakes up")
    assert all(path.startswith("/var/lib/acafs") for path in own_paths(machine)), own_paths(machine)
    install(machine, package)
    machine.run(["systemctl", "start", "tcp-pool", unit_of(HERS)])
    machine.run(["acafs", "sync", place_of(HERS)], user="alice")
    assert in_session(machine, "open('/mnt/data/unsent').read()") == "kept"


def test_it_is_removed_without_a_trace(machine):
    machine.run(["systemctl", "enable", "--now", "acapool.socket", unit_of(PLAIN)])
    machine.run(["mount", "/srv/one"])
    machine.run("mkdir -p ~/here && acafs local ~/here", user="alice")
    machine.run("cd ~/here && echo 'print(1)' > a.py && acarun a.py", user="alice")
    assert len(machine.mounts()) == 4
    remove(machine)
    assert machine.mounts() == {} and machine.processes(*PROGRAMS) == []
    assert own_paths(machine) == []
    assert not list((machine / "etc/systemd/system").glob("*.wants/*aca*"))
    machine.run("apt-get autoremove --purge -y", timeout=400)
    assert (machine / "etc/acafs/acafs.conf").exists(), "it is the administrator's"
