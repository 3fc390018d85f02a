"""`acafs login-check`: what a user sees of the credentials and of what the pool makes of them."""

import json
import os
import shlex

import pytest

from fake_authority import answer, closed_port, now, token
from support import process
from test_credential import (CLIENT, NAMES, RESOURCE, SECRET, TENANT, bench, certificates,  # noqa: F401
                             everything, jwt, with_secret)

SCOPE_PATH = "/subscriptions/sub-1/resourceGroups/rg_(a).b/sessionPools/pool1"


def check(bench, env, pool=None, code=0):
    arguments = [process.ACAFS, "login-check"] + ([pool] if pool else [])
    env = bench.environment(**{"ACAFS_CONFIG": os.devnull, **env})
    done = process.run(arguments, env=env, check=False)
    assert done.returncode == code, (done.returncode, done.stdout, done.stderr)
    assert not process._ALARMS.search(done.stderr)
    return done.stdout, done.stderr


def claims(**more):
    return jwt(tid=TENANT, appid=CLIENT, oid="0b1ec7-1d", aud=RESOURCE, idtyp="app",
               exp=now() + 3599, **more)


def lines_of(text):
    return {line.split()[0]: line.split(None, 1)[1] for line in text.splitlines() if line.startswith("  ") and len(line.split()) > 1}


def test_let_in(bench):
    text = claims()
    authority, pool = bench.fake(token(text)), bench.fake(answer(404, {"error": {"code": "SessionNotFound"}}))
    out, err = check(bench, with_secret(authority), pool.url + SCOPE_PATH + "/")
    seen = lines_of(out)
    assert seen["EnvironmentCredential"] == "chosen" and seen["AzureCliCredential"] == "not asked"
    assert seen["tenant"] == TENANT and seen["principal"] == CLIENT and seen["audience"] == RESOURCE
    assert seen["object"] == "id  0b1ec7-1d" and " min" in seen["expires"]
    assert "lets this principal in" in out and not err
    assert text not in out and text.split(".")[1] not in out and SECRET not in out
    (request,) = pool.requests
    assert (request.method, request.path) == ("GET", SCOPE_PATH + "/session")
    query = dict(request.query)
    assert query["api-version"] == "2025-10-02-preview" and query["identifier"].startswith("login-check-")
    assert request.headers["authorization"] == f"Bearer {text}"


def test_a_404_of_something_else(bench):
    out, _ = check(bench, {"ACAFS_TOKEN": "x"}, bench.fake(answer(404, text="<html>no such page")).url)
    assert "lets this principal in" not in out and "the pool's management endpoint?" in out


def test_a_person(bench):
    text = jwt(tid=TENANT, upn="ann@example.org", oid="0-1", aud=RESOURCE, scp="user_impersonation",
               exp=now() + 99)
    bench.tool("az", f"""echo '{{"accessToken":"{text}","expires_on":{now() + 99}}}'""")
    out, _ = check(bench, {}, bench.fake(answer(403)).url + SCOPE_PATH, code=77)
    assert "principal  ann@example.org" in out and "--assignee-principal-type User" in out
    assert out.index("EnvironmentCredential") < out.index("AzureCliCredential           chosen")


def test_role_is_missing(bench):
    """The command that is shown can be typed as it is."""
    authority, pool = bench.fake(token(claims())), bench.fake(answer(403, {"error": "x"}))
    out, _ = check(bench, with_secret(authority), pool.url + SCOPE_PATH, code=77)
    assert "403" in out and "role" in out
    command = shlex.split(out[out.index("az role assignment create"):].replace("\\\n", " "))
    assert command == [
        "az", "role", "assignment", "create", "--role", "Azure ContainerApps Session Executor",
        "--assignee-object-id", "0b1ec7-1d", "--assignee-principal-type", "ServicePrincipal", "--scope",
        "/subscriptions/sub-1/resourceGroups/rg_(a).b/providers/Microsoft.App/sessionPools/pool1"]


@pytest.mark.parametrize("path", ["", "/subscriptions/$(id)/resourceGroups/'x'/sessionPools/`x`",
                                  "/sessionPools/only"])
def test_role_command_with_what_is_not_known(bench, path):
    evil = jwt(oid="$(reboot)'", aud=RESOURCE, exp=now() + 99)
    authority, pool = bench.fake(token(evil)), bench.fake(answer(403))
    out, _ = check(bench, with_secret(authority), pool.url + path, code=77)
    command = out[out.index("az role assignment create"):]
    assert "--assignee-object-id OBJECT-ID" in command
    assert not set("$`") & set(command) and command.count("'") == 4


def test_wrong_audience(bench):
    text = jwt(aud="https://management.azure.com/", exp=now() + 99)
    authority, pool = bench.fake(token(text)), bench.fake(answer(401))
    out, _ = check(bench, with_secret(authority), pool.url + SCOPE_PATH, code=77)
    assert f"audience is https://management.azure.com/, not {RESOURCE}" in out
    assert len(pool.requests) == 2 and len(authority.requests) == 2, "tried once with a new token"


def test_refused_with_the_right_audience(bench):
    authority, pool = bench.fake(token(claims())), bench.fake(answer(401))
    out, _ = check(bench, with_secret(authority), pool.url, code=77)
    assert "HTTP 401" in out and "is the endpoint the pool's own?" in out


def test_no_credential(bench):
    out, err = check(bench, {}, "https://pool.example" + SCOPE_PATH, code=77)
    seen = lines_of(out)
    assert all(seen[name].startswith("skipped: ") for name in NAMES)
    for word in ["az login", "AZURE_CLIENT_SECRET", "ACAFS_TOKEN", "managed identity"]:
        assert word in out
    assert not err


def test_refused_secret(bench):
    fake = bench.fake(answer(401, {"error": "invalid_client", "error_description": f"AADSTS7000215: {SECRET}"}))
    out, err = check(bench, with_secret(fake), "https://pool.example", code=77)
    assert "failed: " in lines_of(out)["EnvironmentCredential"] and "AADSTS7000215: ****" in out
    assert "correct it, or unset it" in out and SECRET not in out + err


def test_left_out(bench):
    env, _ = everything(bench)
    out, _ = check(bench, {**env, "AZURE_TOKEN_CREDENTIALS": "dev"}, bench.fake(answer(200)).url)
    assert "left out by AZURE_TOKEN_CREDENTIALS" in lines_of(out)["EnvironmentCredential"]
    assert lines_of(out)["AzureCliCredential"] == "chosen"
    assert "only the pool can read" in out
    out, err = check(bench, {"AZURE_TOKEN_CREDENTIALS": "nonsense"}, "https://pool.example", code=78)
    assert "AZURE_TOKEN_CREDENTIALS" in err and "prod, dev" in err


def test_pool_is_away(bench):
    out, _ = check(bench, {"ACAFS_TOKEN": claims()}, closed_port() + SCOPE_PATH, code=69)
    assert "ACAFS_TOKEN" in out and "unreachable" in out


def test_pool_that_may_not_be_asked(bench):
    fake = bench.fake()
    _, err = check(bench, with_secret(fake), "http://pool.example/", code=64)
    assert "https" in err and not fake.requests


def test_usage(bench):
    _, err = check(bench, {}, "--bogus", code=64)
    out, _ = check(bench, {}, "local")
    assert "needs no credential" in out


def test_none(bench):
    config = bench.folder / "acafs.conf"
    config.write_text("[auth]\ncredential = none\n")
    pool = bench.fake(answer(200))
    out, _ = check(bench, {"ACAFS_CONFIG": config}, pool.url)
    assert "none is used" in out and "authorization" not in pool.requests[0].headers
    out, _ = check(bench, {"ACAFS_CONFIG": config}, bench.fake(answer(401)).url, code=77)
    assert "wants a token" in out
