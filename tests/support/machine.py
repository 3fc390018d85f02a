"""A Debian machine in a folder: a base system, booted with a real systemd in namespaces of its own."""

import os
import shutil
import sys
from pathlib import Path

from support import process
from support.wait import wait_for

_BOOT = Path(__file__).with_name("boot")
_BASE = ["systemd", "systemd-sysv", "dbus"]  # what a minimal Debian lacks to be booted
_PATH = "/usr/sbin:/usr/bin:/sbin:/bin"


def make_base(folder, mirror):
    """A minimal Debian 12 in an empty folder. A host's sysctls aren't a machine's in namespaces."""
    process.run(["debootstrap", "--variant=minbase", f"--include={','.join(_BASE)}", "bookworm", folder, mirror],
                timeout=1800)
    (folder / "etc/hostname").write_text("machine\n")
    for unit in ("systemd-sysctl.service", "apt-daily.timer", "apt-daily-upgrade.timer"):
        (folder / "etc/systemd/system" / unit).symlink_to("/dev/null")


class Machine:
    """machine.run(…) as root there, machine.run(…, user="alice"); paths are machine / "etc/fstab"."""

    def __init__(self, root, log):
        self.root, self.log, self.process, self.init = root, log, None, None

    def __truediv__(self, path):
        return self.root / path

    def download(self, package):
        """Gets what the package depends on: the machine itself has no network."""
        shutil.copy(package, self / "root")
        for command in (["apt-get", "update", "-qq"],
                        ["apt-get", "install", "-qq", "-y", "--download-only", f"/root/{package.name}"]):
            process.run(["chroot", self.root, "env", "DEBIAN_FRONTEND=noninteractive", *command], timeout=900)

    # --- its life

    def boot(self):
        cgroup = self.root.parent / "cgroup"
        cgroup.mkdir(exist_ok=True)
        self.process = process.start([_BOOT, self.root, cgroup], self.log)
        self.init = wait_for(self._find_init, 60, "a systemd")
        wait_for(self._is_up, 120, "the machine is up", every=0.2)
        return self

    def _find_init(self):
        """PID 1 of the machine, once it is systemd."""
        assert self.process.poll() is None, f"the machine does not boot:\n{Path(self.log).read_text()}"
        for pid in self._children():
            if Path(f"/proc/{pid}/comm").read_text() == "systemd\n":
                return pid
        return None

    def _children(self):
        return Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()

    def _is_up(self):
        state = self.run(["systemctl", "is-system-running"], check=False).stdout.strip()
        return state in ("running", "degraded")

    def shut_down(self):
        """As an administrator does; returns when it is off."""
        self.run(["systemctl", "poweroff"], check=False)
        self.process.wait(180)
        self._forget()

    def kill(self):
        """As a power cut, but that the file system keeps what was written."""
        if self.process:
            self.process.kill()
            self.process.wait(60)
            wait_for(lambda: not self.init or not os.path.exists(f"/proc/{self.init}"), 60, "the machine's end")
            self._forget()

    def _forget(self):
        pid, self.process, self.init = self.process.pid, None, None
        cgroup = self.root.parent / "cgroup"
        process.run(["mount", "-t", "cgroup2", "cgroup2", cgroup])
        try:
            # Its processes may take a moment to be gone after their PID 1.
            wait_for(lambda: _remove_group(cgroup / f"acafs-machine-{pid}"), 60, "its control group empty")
        finally:
            process.run(["umount", cgroup])

    # --- what is done in it

    def run(self, command, *, user=None, **how):
        """As process.run(), in there."""
        if isinstance(command, str):
            command = ["bash", "-c", command]
        home = f"/home/{user}" if user else "/root"
        enter = ["nsenter", "--target", self.init, "--mount", "--pid", "--uts", "--ipc", "--net", "--cgroup", "--root",
                 "--wdns=/", "env", "-i", f"PATH={_PATH}", f"HOME={home}", "LC_ALL=C.UTF-8", "DEBIAN_FRONTEND=noninteractive"]
        become = ["setpriv", "--reuid", user, "--regid", user, "--init-groups"] if user else []
        how.setdefault("timeout", 120)
        return process.run([*enter, *become, *command], **how)

    def said(self, command, **how):
        """What a command printed."""
        return self.run(command, **how).stdout.strip()

    def show(self, unit, *properties):
        """Properties of a unit, as a dictionary."""
        lines = self.said(["systemctl", "show", *(f"--property={p}" for p in properties), "--", unit])
        return dict(line.split("=", 1) for line in lines.splitlines())

    def journal(self, *match):
        return self.said(["journalctl", "--no-pager", "--boot", *match])

    def write(self, path, text, mode=0o644):
        file = self / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
        file.chmod(mode)

    def mounts(self):
        """Every mount of acafs: {place: options}."""
        found = {}
        for line in self.said(["cat", "/proc/mounts"]).splitlines():
            _, place, kind, options, *_ = line.split()
            if kind == "fuse.acafs":
                found[place.replace("\\134", "\\")] = options.split(",")
        return found

    def processes(self, *names):
        """Its processes of these names, by their numbers on this machine."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                if os.readlink(folder / "ns/pid") == os.readlink(f"/proc/{self.init}/ns/pid") and \
                        (folder / "comm").read_text().strip() in names:
                    found.append(int(folder.name))
            except OSError:
                pass  # it has just ended
        return found


def _remove_group(group):
    for folder, _, _ in os.walk(group, topdown=False):
        os.rmdir(folder)
    return True



if __name__ == "__main__":
    make_base(Path(sys.argv[1]), os.environ.get("ACAFS_MIRROR", "http://deb.debian.org/debian"))
