"""Fixtures of the functional tests: a pool of their own, real mounts, and a proxy between them.

ACAFS_BUILD names the build folder (default build/). With ACAFS_TEST_DIRECTORY=1 the tests that drive
a mount with ordinary tools run on a plain local directory instead: a check of the tests."""

import os
import shutil
import signal
import subprocess
import sys
import threading
import uuid
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).resolve().parent))

from support import process  # noqa: E402
from support.mount import Mount  # noqa: E402
from support.pool import Pool  # noqa: E402
from support.proxy import Proxy  # noqa: E402

ON_DIRECTORY = bool(os.environ.get("ACAFS_TEST_DIRECTORY"))
_LIMIT = 60  # seconds for one test; pytest.mark.limit(SECONDS) gives another


def pytest_configure(config):
    config.addinivalue_line("markers", "limit(seconds): how long this test may take")
    config.addinivalue_line("markers", "session: needs a session behind the directory")
    # A shell's background jobs ignore SIGINT, and all they start: what is tested must not.
    signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_collection_modifyitems(items):
    for item in items:
        if ON_DIRECTORY and item.get_closest_marker("session"):
            item.add_marker(pytest.mark.skip(reason="on a plain directory"))


_mounts = []  # every Mount there is, for the watchdog


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_protocol(item):
    """A test that hangs in a system call on a mount can't be interrupted; but when the daemon
    dies, the call returns. So after the limit the daemons are killed, and the test fails."""
    marker = item.get_closest_marker("limit")
    limit = marker.args[0] if marker else _LIMIT
    expired = threading.Event()

    def bite():
        expired.set()
        sys.stderr.write(f"\n{item.nodeid}: over {limit} s: killing its daemons\n")
        for mount in list(_mounts):
            if mount.running():
                mount.process.kill()
    watchdog = threading.Timer(limit, bite)
    watchdog.daemon = True
    watchdog.start()
    item.stash[_expired] = expired
    yield
    watchdog.cancel()


_expired = pytest.StashKey()


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    """The logs of the daemons belong to the report of a failure."""
    outcome = yield
    report = outcome.get_result()
    if report.when == "call" and item.stash[_expired].is_set() and report.passed:
        report.outcome = "failed"
        report.longrepr = "the test ended only because its daemons were killed: over its time limit"
    if report.failed:
        for mount in _mounts:
            said = mount.said()
            if said:
                report.sections.append((f"log of acafs at {mount.path}", said[-6000:]))


def pytest_terminal_summary(terminalreporter):
    """What failed at first and passed, or failed, when it was run again (tests/run asks for that)."""
    for report in terminalreporter.stats.get("rerun", ()):
        terminalreporter.section(f"unsteady: {report.nodeid}")
        terminalreporter.line(report.longreprtext)
        for title, text in report.sections:
            terminalreporter.line(f"- {title} -")
            terminalreporter.line(text)


@pytest.fixture(scope="session")
def pool(tmp_path_factory):
    """A pool on a private Unix socket, as `acafs local` finds it: one for all tests."""
    with _stopping(Pool(tmp_path_factory.mktemp("pool"))) as it:
        yield it


@pytest.fixture(scope="session")
def tcp_pool(tmp_path_factory):
    """A pool on a loopback port with a token: one for all tests."""
    with _stopping(Pool(tmp_path_factory.mktemp("tcp-pool"), tcp=True)) as it:
        yield it


@pytest.fixture
def own_pool(tmp_path):
    """Makes pools for one test: own_pool(tcp=True, options=[…])."""
    made = []

    def make(**how):
        made.append(Pool(tmp_path / f"pool{len(made)}", **how).start())
        return made[-1]
    yield make
    for it in made:
        it.stop()


class _stopping:
    def __init__(self, pool):
        self.pool = pool

    def __enter__(self):
        return self.pool.start()

    def __exit__(self, *_):
        self.pool.stop()


@pytest.fixture
def proxy(tcp_pool):
    """A fault proxy in front of tcp_pool."""
    it = Proxy(("127.0.0.1", tcp_pool.port))
    yield it
    it.close()


@pytest.fixture
def session():
    """A session identifier nobody used before."""
    return str(uuid.uuid4())


@pytest.fixture
def runtime(tmp_path):
    """An XDG_RUNTIME_DIR with no pool in it."""
    path = tmp_path / "run"
    path.mkdir(mode=0o700)
    return path


def _maker(folder, where):
    """A function that mounts; `where` is the pool unless the call names one."""
    count = iter(range(1000))

    def make(source=None, *, session=None, pool=None, proxy=None, options=(), env=None, start=True,
             at=None, cache=None):
        number = next(count)
        settings = {"HOME": folder, "ACAFS_CONFIG": os.devnull}
        if proxy is not None:
            pool = pool or where("tcp_pool")
            settings["ACAFS_TOKEN"] = pool.token
            source = source or proxy.url
        else:
            pool = pool or where("pool")
            settings["XDG_RUNTIME_DIR"] = pool.directory
            settings["ACAFS_TOKEN"] = pool.token
            source = source or (pool.url if pool.token else "local")
        session = session or str(uuid.uuid4())
        mount = Mount(at or folder / f"mnt{number}", f"{source}#{session}",
                      options=options, env=process.environment(**{**settings, **(env or {})}),
                      log=folder / f"acafs{number}.log", cache=cache or folder / f"cache{number}")
        mount.session, mount.pool = session, pool
        _mounts.append(mount)
        return mount.start() if start else mount
    return make


def _finish_all(mounts):
    troubles = []
    for mount in mounts:
        _mounts.remove(mount)
        try:
            mount.finish()
        except (AssertionError, subprocess.TimeoutExpired) as trouble:
            troubles.append(str(trouble))
    assert not troubles, "\n".join(troubles)


@pytest.fixture
def mounts(tmp_path, request):
    """Makes mounts for one test: mounts(), mounts(proxy=proxy, options=["timeout-read=2"]), …
    Each is unmounted at the end, must have ended cleanly, and has .session and .pool."""
    before = len(_mounts)
    yield _maker(tmp_path, request.getfixturevalue)
    _finish_all(_mounts[before:])


@pytest.fixture
def whole(tmp_path, request):
    """Mounts whole pools: whole(options=[…], proxy=proxy, pool=pool, cache=PATH, env={…}, config=TEXT)."""
    before = len(_mounts)

    def make(*, pool=None, proxy=None, options=(), cache=None, env=None, config=None, start=True):
        pool = pool or request.getfixturevalue("tcp_pool")
        folder = tmp_path / f"all{len(_mounts)}"
        folder.mkdir()
        if config:
            (folder / "acafs.conf").write_text(config)
        mount = Mount(folder / "mnt", proxy.url if proxy else pool.url if pool.token else "local",
                      options=["all", *options], log=folder / "log", cache=cache or folder / "cache",
                      env=process.environment(HOME=folder, ACAFS_TOKEN=pool.token,
                                              ACAFS_CONFIG=folder / "acafs.conf" if config else os.devnull,
                                              XDG_RUNTIME_DIR=pool.directory, **(env or {})))
        mount.pool = pool
        _mounts.append(mount)
        return mount.start() if start else mount
    yield make
    _finish_all(_mounts[before:])


@pytest.fixture
def name():
    """A session that nobody used before, in a whole pool."""
    return f"s-{uuid.uuid4().hex[:12]}"


@pytest.fixture
def mount(mounts):
    """A fresh mount of a fresh session."""
    return mounts()


@pytest.fixture(scope="module")
def shared_mount(tmp_path_factory, request):
    """One mount for all tests of a module, which keep to directories of their own."""
    if ON_DIRECTORY:
        yield tmp_path_factory.mktemp("directory")
        return
    before = len(_mounts)
    yield _maker(tmp_path_factory.mktemp("shared"), request.getfixturevalue)()
    _finish_all(_mounts[before:])


@pytest.fixture
def folder(shared_mount, request):
    """An empty directory in the module's mount: a Path."""
    path = Path(shared_mount) / f"t{uuid.uuid4().hex[:8]}"
    path.mkdir()
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def sh(request, tmp_path):
    """Runs a shell line as a user would, in the test's folder or mount where it has one."""
    if "folder" in request.fixturenames:
        where = request.getfixturevalue("folder")
    elif "mount" in request.fixturenames:
        where = request.getfixturevalue("mount").path
    else:
        where = tmp_path

    def run(line, **options):
        options.setdefault("cwd", where)
        options.setdefault("env", process.environment(HOME=tmp_path, GIT_CONFIG_NOSYSTEM=1))
        return process.run("set -eo pipefail\n" + line, **options).stdout
    return run
