"""The configuration as users write it and an attacker would: `acafs config`, and `acafs config --check`."""

import os
import re

import pytest

from support import process


@pytest.fixture
def check(tmp_path):
    """Has a text looked over: what was said about it after the file's name, "" when it is accepted."""
    file = tmp_path / "a.conf"

    def run(text):
        file.write_bytes(text if isinstance(text, bytes) else text.encode())
        done = process.run([process.ACAFS, "config", "--check", file], check=False, env=process.environment())
        assert (done.returncode, done.stdout, done.stderr.count("\n")) in ((0, "", 0), (78, "", 1)), done
        said = done.stderr.removesuffix("\n")
        assert said.isprintable() and (not said or said.startswith(f"acafs: {file}:")), said
        return said[len(f"acafs: {file}:"):]
    return run


def brief(text):
    return repr(text[:40])


NO_IDENTIFIER = "a session's identifier is made of"


@pytest.mark.parametrize("text, said", [
    ("[pool]\n\nendpont = x\n", "3: unknown key endpont"),
    ("# a\n[nope]\na = b\n", "3: unknown section nope"),
    ("[pool]\ntimeout-read = soon\n", "2: timeout-read = soon: want a time"),
    ("[pool]\nmax-retries = -1\n", "2: max-retries = -1: want a number"),
    ("[mount]\nuid = no-such-user\n", "2: uid = no-such-user: want a user"),
    ("size = 2G\n", r"1: no \[section\] before size"),
    ("[pool\nmax-retries = 1\n", r"1: neither \[section\] nor key = value"),
    ("[pool]\nmax-retries\n", r"2: neither \[section\] nor key = value"),
    ("[pool]\n= 1\n", "2: unknown key "),
    ("[pool]\nmax-retries = 1\n[log]\n[pool]\nmax_retries = 1\n", "5: max-retries is set already, at line 2$"),
    # values that otherwise only a mount would stumble over
    ("[pool]\nendpoint = http://pool.example/\n", "2: endpoint = http://pool.example/: "),
    ("[pool]\nendpoint = https://me:secret@pool.example/\n", "2: endpoint = "),
    ("[session]\nid = a b c d\n", f"2: id = a b c d: {NO_IDENTIFIER}"),
    ("[session]\nid = abc\n", "2: id = abc: a session's identifier has 4 to"),
    ("[auth]\ncredential = password\n", "2: credential = password: no such credential"),
    ("[auth]\ntoken = eyJ0\n", "2: unknown key token"),
    ("[cache]\ndir = here\n", "2: dir = here: want an absolute path"),
    # sections of sessions
    ("[session alice-2026]\nsize = 1G\n", "2: unknown option size"),
    ("[session alice-2026]\nsession = bobs-2026\n", r"2: not possible in a \[session NAME\]: session"),
    ("[session alice-2026]\numask = 999\n", "2: umask = 999: want an octal number"),
    ("[session alice-2026]\nendpoint = http://pool.example/\n", "2: endpoint = http://pool.example/: "),
    ("[session alice-2026]\nro = yes\n[session alice-2026]\nro = no\n", "4: ro is set already, at .*a.conf:2$"),
    ("[session alice 2026]\nro = yes\n", f"2: session = alice 2026: {NO_IDENTIFIER}"),
    ("[session ]\nro = yes\n", r"2: no NAME in \[session NAME\]"),
    ("[session alice-2026] [session bobs-2026]\nro = yes\n", f"2: session = .*: {NO_IDENTIFIER}"),
    # what an editor, or somebody worse, left there
    (b"[pool]\r\n\r\nendpont = x\r\n", "3: unknown key endpont"),
    (b"[pool]\nmax-\x1b[2Jretries = 1\n", "2: unknown key max-"),
    (b"[\x1b]0;title\x07]\na = 1\n", "2: unknown section "),
    (b"[pool]\napi-version = \x1b[2J\n", "2: api-version = .*: want one line of text, without control characters"),
    (b"[session al\x07ice]\nro = yes\n", f"2: session = .*: {NO_IDENTIFIER}"),
    (b"[pool]\n# \x00\n", " not a text file"),
    (b"[pool]\nmax-retries = " + b"1" * 100000 + b"\n", "2: max-retries = 11"),
    (b"[pool]\n" + b"k" * 100000 + b" = 1\n", "2: unknown key kk"),
    (b"[pool]\n" + b"k" * 100000, "2: neither"),
    (b"#" * (1 << 20) + b"\n", " File too large"),
], ids=brief)
def test_what_is_refused(check, text, said):
    assert re.match(said, check(text))


@pytest.mark.parametrize("text", [
    "", "# nothing\n", "\n\n[pool]\n", "[pool]\nmax-retries = 1", "  [pool]\n  max_retries   =   1  ; few\n",
    b"\xef\xbb\xbf[pool]\nmax-retries = 1\n", b"\xef\xbb\xbf", b"\xef\xbb\xbf \r\f[session alice-2026]\nro = yes\n",
    b"[pool]\r\nmax-retries = 1\r\nendpoint = local\r\n[auth]\r\ntoken-file =\r\n",
    "[auth]\ntoken-file = " + "/a" * 20000 + "\n",
    "[pool]\nendpoint = https://pool.example/\n[auth]\ncredential = AzureCLICredential\n",
    "[session we|you&{50%}]\nro = yes\n[session a[b];<c>] ; hers [not his]\nro = no\n[mount]\nro = yes\n",
    "[local]\nprogram = /opt/größe/acapool\n",
], ids=brief)
def test_what_is_accepted(check, text):
    assert check(text) == ""


def test_long_lines_and_long_names(tmp_path):
    """Endpoints may be long, and identifiers have up to 128 characters."""
    endpoint = "https://westeurope.dynamicsessions.io/subscriptions/" + "0" * 36 + "/resourceGroups/" + "g" * 90 + \
        "/sessionPools/" + "p" * 63
    name = "n" * 127
    (tmp_path / "a.conf").write_text(f"# {'long ' * 100}\n[session {name}a]\nro = yes\n[session {name}b]\numask = 077\n"
                                     f"[pool]\nendpoint = {endpoint}\n")
    now = effective(tmp_path / "a.conf", ACAFS_SESSION=name + "b")
    assert now["endpoint"] == (endpoint, f"{tmp_path}/a.conf:7")
    assert now["umask"] == ("077", f"{tmp_path}/a.conf:5") and now["ro"] == ("no", "default")


def effective(file, **env):
    """{key: (value, origin)}"""
    done = process.run([process.ACAFS, "config"], env=process.environment(ACAFS_CONFIG=file, **env))
    assert not done.stderr
    return {key: (value, origin)
            for key, value, origin in re.findall(r"^(?:# )?([a-z_-]+) = (.*?) *; (.*)$", done.stdout, re.M)}


def test_a_session_of_its_own(tmp_path):
    file = tmp_path / "a.conf"
    file.write_text("[session a[b];<c>]\nro = yes\numask = 077\n[mount]\numask = 027\n[session other]\nro = no\n")
    now = effective(file, ACAFS_SESSION="a[b];<c>")
    assert now["ro"] == ("yes", f"{file}:2") and now["umask"] == ("077", f"{file}:3")
    assert effective(file, ACAFS_SESSION="other")["umask"] == ("027", f"{file}:5")
    assert effective(file, ACAFS_SESSION="a[b];<c>", ACAFS_UMASK="007")["umask"] == ("007", "ACAFS_UMASK")


def test_it_tells_no_secret(tmp_path):
    (tmp_path / "token").write_text("s3cret")
    (tmp_path / "a.conf").write_text(f"[auth]\ntoken-file = {tmp_path}/token\nclient-secret-file = {tmp_path}/token\n")
    secrets = dict.fromkeys(("ACAFS_TOKEN", "AZURE_CLIENT_SECRET", "AZURE_CLIENT_CERTIFICATE_PASSWORD"), "s3cret")
    env = process.environment(ACAFS_CONFIG=tmp_path / "a.conf", **secrets)
    done = process.run([process.ACAFS, "config"], env=env)
    assert "s3cret" not in done.stdout + done.stderr and f"token-file = {tmp_path}/token" in done.stdout


def test_what_anybody_may_write_is_not_read(tmp_path):
    """Whoever names another pool gets the token for it."""
    file = tmp_path / "a.conf"
    file.write_text("[pool]\nmax-retries = 1\n")
    file.chmod(0o646)
    for command in (["config", "--check", file], ["config"], ["local", tmp_path, "-o", f"config={file}"]):
        done = process.run([process.ACAFS, *command], check=False, env=process.environment(ACAFS_CONFIG=file))
        assert (done.returncode, done.stdout) == (78, "")
        assert done.stderr == f"acafs: {file}: anybody may write to it: chmod o-w\n"
    file.chmod(0o664)
    assert effective(file)["max-retries"][0] == "1"
    assert effective(os.devnull)["max-retries"][0] == "4"


@pytest.mark.parametrize("arguments", [["--check"], ["--check", "a", "b"], ["--options", "a"], ["pool"]])
def test_usage(arguments):
    done = process.run([process.ACAFS, "config", *arguments], check=False, env=process.environment())
    assert done.returncode == 64 and done.stderr.startswith("acafs: usage: acafs config ") and not done.stdout
