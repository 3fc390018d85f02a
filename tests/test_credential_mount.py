"""Credentials behind real programs: what a mount and acarun tell when there is none, what of [auth] in a
configuration file reaches the authority, and that no token or secret is left where it does not belong."""

import errno
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from fake_authority import answer, now, token
from support import process
from support.acarun import Acarun
from support.proxy import answer as reply
from support.wait import wait_for
from test_credential import (CLIENT, NAMES, RESOURCE, SECRET, TENANT, bench, certificates,  # noqa: F401
                             check_assertion, finds, join, jwt, long_secret, memory, principal, with_secret)

pytestmark = pytest.mark.session


class Gate:
    """A proxy's rule: lets in who bears `token`, and takes that for the pool's own."""

    def __init__(self, proxy, pool):
        self.token = None
        self.pool = pool
        self.refused = 0
        proxy.rule(".*", self)

    def __call__(self, exchange):
        if exchange.request.headers.get("authorization") != f"Bearer {self.token}":
            self.refused += 1
            reply(401)(exchange)
            return
        real = f"Authorization: Bearer {self.pool.token}".encode()
        exchange._head = re.sub(rb"(?im)^authorization:[^\r\n]*", real, exchange._head)
        exchange.forward()


@pytest.fixture
def gate(proxy, tcp_pool):
    return Gate(proxy, tcp_pool)


@pytest.fixture
def place(bench, mounts, proxy):
    """Mounts through the gate; the environment gets nothing but what the test gives."""
    def make(env, *options):
        env = {key: str(value) for key, value in bench.environment(ACAFS_CONFIG=os.devnull, **env).items()}
        env["PATH"] = f"{bench.tools}:/usr/bin:/bin"
        mount = mounts(proxy=proxy, options=["attr-timeout=0", "max-retries=0", *options], start=False)
        mount.env = env
        return mount
    return make


def everywhere(mount):
    """All that others may see of a mount."""
    return "\n".join([mount.said(), (mount / ".acafs/status").read_text(),
                      (mount / ".acafs/metrics").read_text(), shown_by_proc(mount.pid)])


def shown_by_proc(pid):
    """Arguments and environment; the latter is root's to see in a process that holds a token."""
    def read(name):
        try:
            return Path(f"/proc/{pid}/{name}").read_text(errors="replace")
        except PermissionError:
            return ""
    return read("cmdline") + read("environ")


# --- no credential

def test_a_mount_without_a_credential_says_what_each_said(place, bench):
    mount = place({"ACAFS_LOG_LEVEL": "error"})
    with pytest.raises(AssertionError):
        mount.start()
    assert mount.process.returncode == 77
    lines = [line.split(": ", 1)[1] for line in mount.said().splitlines() if ": " in line]
    assert lines[0] == f"no token for {RESOURCE}:"
    assert [line.split(":")[0].strip() for line in lines[1:6]] == NAMES
    assert all(": skipped: " in line for line in lines[1:6]) and "az login" in mount.said()
    mount.killed = True


@pytest.mark.parametrize("how", [["a.py"], ["-c", "1"], ["-q", "a.py"], ["--json", "a.py"]])
def test_acarun_without_a_credential_says_what_each_said(bench, tcp_pool, how):
    run = Acarun(bench.folder, tcp_pool, bench.folder)
    run.env = bench.environment(ACAFS_CONFIG=os.devnull)
    run.script("print(1)", "a.py")
    done = run("-p", tcp_pool.url, *how)
    assert done.returncode == 77
    for name in NAMES:
        assert re.search(rf"^acarun:   {name}: skipped: ", done.stderr, re.M), done.stderr
    assert "az login" in done.stderr


def test_acarun_with_a_secret_that_is_refused(bench, tcp_pool):
    authority = bench.fake(answer(401, {"error": "invalid_client", "error_description": f"AADSTS7000215: {SECRET}"}))
    run = Acarun(bench.folder, tcp_pool, bench.folder)
    run.env = bench.environment(ACAFS_CONFIG=os.devnull, **with_secret(authority))
    done = run("-p", tcp_pool.url, "-o", "log-level=debug", "-c", "1")
    assert done.returncode == 77 and "AADSTS7000215: ****" in done.stderr
    assert SECRET not in done.stdout + done.stderr and "EnvironmentCredential is set up" in done.stderr


def test_a_credential_lost_while_mounted(place, gate, bench, tcp_pool):
    """The log has every reason, .acafs/status too, and acarun in the mount says the one that counts."""
    gate.token = first = long_secret("first-")
    authority = bench.fake(token(first), answer(401, {"error": "invalid_client",
                                                      "error_description": f"AADSTS7000222: {SECRET} has expired"}))
    mount = place(with_secret(authority)).start()
    (mount / "a.py").write_text("print(1)")
    mount.sync()
    link = mount.status()["credential"]["links"][0]
    assert (link["name"], link["state"]) == (NAMES[0], "chosen") and mount.status()["credential"]["has_token"]
    gate.token = "another"
    with pytest.raises(OSError) as error:
        (mount / "b").read_bytes()
    assert error.value.errno == errno.EACCES
    status = mount.status()["credential"]
    reason = "refused: HTTP 401 invalid_client: AADSTS7000222: **** has expired"
    assert reason in status["error"] and not status["has_token"]
    assert reason in status["links"][0]["reason"] and status["links"][0]["state"] == "failed"
    assert reason in mount.said() and "WorkloadIdentityCredential: not asked" in mount.said()
    done = Acarun(mount.path, tcp_pool, bench.folder)("-c", "1")
    assert done.returncode == 77 and "AADSTS7000222: **** has expired" in done.stderr
    shown = everywhere(mount) + done.stdout + done.stderr
    assert SECRET not in shown and first not in shown
    gate.token = second = long_secret("second-")
    authority.answers[:] = [token(second)]
    wait_for(lambda: os.listdir(mount) == ["a.py"] if _reads(mount) else False, 15, "it comes back by itself")
    assert mount.status()["credential"]["error"] is None


def _reads(mount):
    try:
        os.listdir(mount)
        return True
    except OSError as error:
        assert error.errno == errno.EACCES
        return False


# --- nothing is left

looks_into_memory = [
    pytest.mark.skipif(process.sanitized(), reason="a sanitizer's allocator keeps what is freed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="acafs and acarun hide their memory from their own user")]


def marked(test):
    for mark in looks_into_memory:
        test = mark(test)
    return test


def must_not_find(text, pid, folder):
    """In what the process may write to, and in a core image."""
    assert not finds(text, memory(pid))
    if shutil.which("gcore"):
        done = process.run(["gcore", "-o", folder / "core", str(pid)], check=False)
        image = Path(f"{folder}/core.{pid}")
        if image.exists():
            assert not finds(text, [("core", image.read_bytes())]), done.stdout


@marked
def test_nothing_is_left_of_a_token_that_a_mount_dropped(place, gate, bench, tcp_pool):
    gate.token = first = long_secret("first-")
    second = long_secret("second-")
    authority = bench.fake(token(first), token(second))
    mount = place(with_secret(authority)).start()
    (mount / "big").write_bytes(os.urandom(3_000_000))
    for i in range(20):
        (mount / f"f{i}").write_text("x" * i)
    mount.sync()
    os.mkdir(mount / "d")
    (mount / "a.py").write_text("print(1)")
    assert Acarun(mount.path, tcp_pool, bench.folder)("a.py").returncode == 0
    assert finds(first, memory(mount.pid)), "the search finds what is there"
    assert first not in everywhere(mount) and SECRET not in everywhere(mount)
    gate.token = second
    assert (mount / "f3").read_text() == "xxx" and len(os.listdir(mount)) >= 20
    wait_for(lambda: len(authority.requests) == 2 and not finds(first, memory(mount.pid)), 10,
             "requests under way with the old token are over")
    must_not_find(first, mount.pid, bench.folder)
    assert finds(second, memory(mount.pid))
    assert len(authority.requests) == 2


@marked
def test_nothing_is_left_of_a_token_that_acarun_dropped(gate, proxy, bench, tcp_pool):
    gate.token = first = long_secret("first-")
    second = long_secret("second-")
    authority = bench.fake(token(first), token(second))
    run = Acarun(bench.folder, tcp_pool, bench.folder)
    run.env = bench.environment(ACAFS_CONFIG=os.devnull, **with_secret(authority))
    run.script("""
import os, time
print("begun", flush=True)
while not os.path.exists("/mnt/data/go"):
    time.sleep(0.05)
""", "wait.py")
    session = os.urandom(8).hex()
    log = bench.folder / "acarun.log"
    with run.started("-p", proxy.url, "-s", session, "wait.py", log=log) as it:
        assert it.stdout.readline() == b"begun\n"
        assert SECRET not in shown_by_proc(it.pid) and first not in shown_by_proc(it.pid)
        gate.token = second
        wait_for(lambda: len(authority.requests) == 2, 20, "it learns of the new token")
        wait_for(lambda: not finds(first, memory(it.pid)), 10, "requests with the old token are over")
        must_not_find(first, it.pid, bench.folder)
        tcp_pool.write(session, "go", b"")
        assert it.wait(30) == 0
    said = log.read_text()
    assert first not in said and second not in said


def test_a_local_pool_inherits_no_secret(bench, runtime, tmp_path):
    """It runs foreign code, and the mount of it needs no credential itself."""
    secrets = {"ACAFS_TOKEN": long_secret("tok-"), "AZURE_CLIENT_SECRET": long_secret("sec-"),
               "AZURE_PASSWORD": long_secret("pas-"), "AZURE_CLIENT_CERTIFICATE_PASSWORD": long_secret("cer-")}
    env = process.environment(HOME=tmp_path, XDG_RUNTIME_DIR=runtime, ACAFS_CONFIG=os.devnull, **secrets)
    ours = {}
    (tmp_path / "mnt").mkdir()
    process.run([process.ACAFS, "local#session-1", tmp_path / "mnt", "-o", f"cache-dir={tmp_path}/cache"], env=env)
    try:
        ours = {pid: Path(f"/proc/{pid}/comm").read_text().strip() for pid in os.listdir("/proc")
                if pid.isdigit() and str(runtime).encode() in _environ(pid)}
        assert "acapool" in ours.values()
        for pid in ours:
            for name, value in secrets.items():
                assert not finds(value, [(name, _environ(pid))]), (pid, name)
    finally:
        process.run(["fusermount3", "-u", tmp_path / "mnt"], check=False)
        for pid in [pid for pid, name in ours.items() if name == "acapool"]:
            os.kill(int(pid), signal.SIGTERM)


def _environ(pid):
    try:
        return Path(f"/proc/{pid}/environ").read_bytes()
    except OSError:
        return b""


# --- [auth] of a configuration file

def configured(bench, env=None, code=0, **settings):
    """login-check with that [auth]: what it says."""
    file = bench.folder / "acafs.conf"
    file.write_text("[auth]\n" + "".join(f"{key.replace('_', '-')} = {value}\n" for key, value in settings.items()))
    env = bench.environment(ACAFS_CONFIG=file, **(env or {}))
    pool = bench.fake(answer(404))
    done = process.run([process.ACAFS, "login-check", pool.url], env=env, check=False)
    assert done.returncode == code, done.stdout + done.stderr
    return done, pool


@pytest.fixture
def credentials(bench):
    """$CREDENTIALS_DIRECTORY as systemd makes it."""
    folder = bench.folder / "systemd credentials"
    folder.mkdir(mode=0o700)

    def put(name, content):
        path = folder / name
        path.write_bytes(content if isinstance(content, bytes) else content.encode())
        path.chmod(0o400)
        return name
    put.folder = folder
    return put


def test_auth_with_a_secret(bench, credentials):
    authority = bench.fake(token("T1"))
    done, pool = configured(bench, {"CREDENTIALS_DIRECTORY": credentials.folder}, credential="environment",
                            tenant_id=TENANT, client_id=CLIENT, authority=authority.url,
                            client_secret_file=credentials("client-secret", SECRET + "\n"))
    (request,) = authority.requests
    assert request.path == f"/{TENANT}/oauth2/v2.0/token"
    assert request.members["client_id"] == CLIENT and request.members["client_secret"] == SECRET
    assert pool.requests[0].headers["authorization"] == "Bearer T1" and not done.stderr
    assert SECRET not in done.stdout


def test_auth_with_a_certificate(bench, credentials, certificates):
    pair = certificates.signed("client")
    locked = bench.folder / "locked.key"
    certificates.openssl("pkcs8", "-topk8", "-in", pair.key, "-out", locked, "-passout", "pass:opensesame")
    file = join(bench.folder / "client.pem", pair.certificate, locked, certificates.ca.certificate)
    authority = bench.fake(token("T1"))
    configured(bench, {"CREDENTIALS_DIRECTORY": credentials.folder}, tenant_id=TENANT, client_id=CLIENT,
               authority=authority.url, certificate=credentials("client.pem", file.read_bytes()),
               certificate_password_file=credentials("client-password", "opensesame"),
               send_certificate_chain="yes")
    check_assertion(authority.requests[0], pair, certificates,
                    [certificates.der(pair.certificate), certificates.der(certificates.ca.certificate)])


def test_auth_with_workload_identity(bench, credentials):
    authority = bench.fake(token("T1"))
    configured(bench, {"CREDENTIALS_DIRECTORY": credentials.folder}, credential="workload-identity",
               tenant_id=TENANT, client_id=CLIENT, authority=authority.url,
               federated_token_file=credentials("federated", "an-assertion"))
    assert authority.requests[0].members["client_assertion"] == "an-assertion"


def test_auth_with_a_managed_identity(bench):
    metadata = bench.fake(token("T1"))
    configured(bench, {"AZURE_POD_IDENTITY_AUTHORITY_HOST": metadata.url}, credential="managed-identity", client_id=CLIENT)
    assert metadata.requests[0].query[2] == ("client_id", CLIENT)


def test_auth_with_a_tool(bench):
    called = bench.tool("az", f"""echo '{{"accessToken":"T1","expires_on":{now() + 3600}}}'""")
    configured(bench, credential="azure-cli", tenant_id="contoso.example")
    assert "contoso.example" in called.read_text().splitlines()


@pytest.mark.parametrize("mode, warned", [(0o400, False), (0o644, True)])
def test_auth_with_a_token_file(bench, credentials, mode, warned):
    name = credentials("token", jwt(aud=RESOURCE, tid=TENANT))
    (credentials.folder / name).chmod(mode)
    done, pool = configured(bench, {"CREDENTIALS_DIRECTORY": credentials.folder}, token_file=name)
    assert TENANT in done.stdout and pool.requests[0].headers["authorization"].startswith("Bearer ey")
    assert ("every user may read it" in done.stderr) == warned, done.stderr


def test_auth_with_none(bench):
    done, pool = configured(bench, credential="none")
    assert "authorization" not in pool.requests[0].headers


def test_auth_with_nothing_known(bench):
    done, pool = configured(bench, code=78, credential="azure-cil")
    assert "azure-cil" in done.stderr and "AzureCliCredential" in done.stderr and not pool.requests
