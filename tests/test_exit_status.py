"""What acafs ends with when it does not mount: a unit is started again after some of them only."""

import os
import re

import pytest

from support import process
from support import proxy as fault
from support.mount import mounted

pytestmark = pytest.mark.session

FOR_GOOD = {64, 66, 77, 78}


@pytest.fixture
def refused(tmp_path, tcp_pool, session):
    """Runs acafs, which must not mount: its exit status and what it said."""
    def run(source, *arguments, cache=tmp_path / "cache", **env):
        point = tmp_path / "point"
        point.mkdir(exist_ok=True)
        source = source if "--all" in arguments else f"{source}#{session}"
        done = process.run([process.ACAFS, source, point, "-f", "-o",
                            f"cache-dir={cache},timeout-connect=2,timeout-read=2,max-retries=0", *arguments], check=False,
                           env=process.environment(HOME=tmp_path, ACAFS_CONFIG=os.devnull, ACAFS_TOKEN=tcp_pool.token, **env))
        assert not mounted(point) and len(done.stderr.splitlines()) == 1, done.stderr
        return done.returncode, done.stderr
    return run


@pytest.mark.parametrize("status, code", [(401, 77), (403, 77), (429, 69), (500, 69), (503, 69)])
def test_what_the_pool_answers(refused, proxy, status, code):
    proxy.rule(".*", fault.answer(status))
    assert refused(proxy.url)[0] == code
    assert (code in FOR_GOOD) == (status in (401, 403))


@pytest.mark.parametrize("trouble", ["down", "freeze"])
def test_a_pool_that_is_away(refused, proxy, trouble):
    getattr(proxy, trouble)()
    assert refused(proxy.url)[0] == 69


@pytest.mark.parametrize("what", [[], ["--all"]], ids=["one", "all"])
@pytest.mark.parametrize("place", ["file", "file/below", "/proc/nowhere", "x" * 300])
def test_a_cache_directory_that_can_not_be(refused, tcp_pool, tmp_path, place, what):
    (tmp_path / "file").write_text("not a directory")
    code, said = refused(tcp_pool.url, *what, cache=tmp_path / place)
    assert code == 78 and "cache directory" in said


def test_a_cache_directory_of_somebody_else(refused, tcp_pool, tmp_path):
    if os.geteuid() == 0:
        pytest.skip("root may write everywhere")
    (tmp_path / "theirs").mkdir(mode=0o500)
    assert refused(tcp_pool.url, cache=tmp_path / "theirs")[0] == 78


def test_a_session_that_is_in_use(refused, mounts, tcp_pool, session, tmp_path):
    mounts(pool=tcp_pool, session=session, cache=tmp_path / "cache")
    assert refused(tcp_pool.url)[0] == 75


@pytest.mark.parametrize("options", ["session=another-one", "endpoint=http://127.0.0.1:1", "session="])
def test_source_and_options_that_contradict_each_other(refused, proxy, options):
    """Which of both was meant nobody knows; identifiers are not told."""
    code, said = refused(proxy.url, "-o", options)
    assert code == 64 and "SOURCE names another" in said and "another-one" not in said
    assert not proxy.requests


def test_source_and_options_that_agree(mounts, session):
    assert mounts(session=session, options=[f"session={session}", "endpoint=local"]).status()["session"] == session


@pytest.mark.parametrize("arguments", [["-f", "sync", "."], ["-f", "status"], ["-o", "ro", "list"], ["-d", "status", "."]])
def test_a_command_behind_an_option(tmp_path, arguments):
    done = process.run([process.ACAFS, *arguments], check=False, cwd=tmp_path, env=process.environment())
    assert done.returncode == 64 and "a command goes first" in done.stderr


def test_a_mount_point_that_is_named_like_a_command(tmp_path):
    (tmp_path / "list").write_text("")
    done = process.run([process.ACAFS, "-f", "list"], check=False, cwd=tmp_path,
                       env=process.environment(ACAFS_CONFIG=os.devnull, HOME=tmp_path))
    assert done.returncode == 66 and "not a directory" in done.stderr


def test_the_unit_is_not_started_again_for_nothing():
    unit = next(process.BUILD.glob("systemd/acafs@.service")).read_text()
    assert re.search(r"^Restart=on-failure$", unit, re.M)
    listed = re.search(r"^RestartPreventExitStatus=(.*)$", unit, re.M)[1]
    assert {int(code) for code in listed.split()} == FOR_GOOD
