"""Bash completion, asked as readline asks it."""

import os
import re
import shlex
from pathlib import Path

import pytest

from support import process

FILE = Path(__file__).resolve().parents[1] / "etc/bash-completion/acafs"
OPTIONS = re.findall(r"^([a-z][a-z_-]*)=?[A-Z]*  ", process.run([process.ACAFS, "config", "--options"]).stdout, re.M)

# Cuts a line into words as readline does with the usual COMP_WORDBREAKS, and calls the function.
DRIVER = r"""
source "$1"
COMP_LINE=$2 COMP_POINT=${#2} COMP_WORDS=() COMP_CWORD=0
mapfile -t COMP_WORDS <<<"$3"
COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
"_$4"
printf '%s\n' "${COMPREPLY[@]}"
"""


def complete(line, folder="/"):
    """What TAB at the end of the line would offer for the last word."""
    words = re.findall(r"[=:]+|[^\s=:]+", line)
    if not line or line[-1].isspace():
        words.append("")
    program = words[0]
    path = os.pathsep.join(str(it.parent) for it in (process.ACAFS, process.ACARUN, process.ACAPOOL))
    done = process.run(["bash", "--norc", "-c", DRIVER, "bash", FILE, line, "\n".join(words), program], cwd=folder,
                       env=process.environment(PATH=f"{path}:/usr/bin:/bin"))
    assert not done.stderr, done.stderr
    return done.stdout.split()


def test_first_words(tmp_path):
    (tmp_path / "mnt").mkdir()
    assert set(complete("acafs ", tmp_path)) == {"mnt", "status", "list", "sync", "login-check", "config", "local"}
    assert complete("acafs st") == ["status"]
    assert complete("acafs local m", tmp_path) == ["mnt"]
    assert complete("acafs --v") == ["--version"]


def test_flags():
    text = process.run([process.ACAFS, "--help"]).stdout.partition("\n  -f ")
    told = set(re.findall(r"^  (-\w)|, (-\w|--\w+)|   (-V)", text[1] + text[2], re.M))
    assert {flag for match in told for flag in match if flag} | {"--all"} == set(complete("acafs -"))
    assert complete("acafs status -") == ["--json"]


def test_every_option():
    assert len(OPTIONS) > 25
    offered = [name.rstrip("=") for name in complete("acafs local /mnt -o ")]
    assert sorted(offered) == sorted(OPTIONS + ["config"])


def test_options_in_a_list():
    assert complete("acafs local /mnt -o cache-s") == ["cache-size="]
    assert complete("acafs local /mnt -o ro,keep") == ["ro,keepalive"]
    # Readline replaces what follows the last "=".
    assert complete("acafs local /mnt -o attr-timeout=3,cache-d") == ["3,cache-dir="]


def test_values():
    assert complete("acafs local /mnt -o log-level=") == ["error", "warning", "info", "debug"]
    assert complete("acafs local /mnt -o ro,log-level=d") == ["debug"]
    assert complete("acafs local /mnt -o log-format=") == ["text", "json"]
    assert complete("acafs local /mnt -o symlinks=c") == ["contain"]
    assert complete("acafs local /mnt -o credential=azure") == ["azure-cli"]
    assert complete("acafs local /mnt -o sync=") == ["yes", "no"]
    assert complete("acafs local /mnt -o uid=roo") == ["root"]
    assert complete("acafs local /mnt -o max-retries=") == []


def test_files_as_values(tmp_path):
    (tmp_path / "token").touch()
    assert complete("acafs local /mnt -o token-file=to", tmp_path) == ["token"]
    assert complete("acafs local /mnt -o config=to", tmp_path) == ["token"]
    assert complete("acafs config --check t", tmp_path) == ["token"]
    assert complete("acafs config --", tmp_path) == ["--check", "--options"]


@pytest.mark.session
def test_mounts(mount):
    assert str(mount.path) in complete("acafs status ")
    assert complete(f"acafs sync {mount.path}") == [str(mount.path)]


def test_acapool():
    out = process.run([process.ACAPOOL, "--help"]).stdout
    assert set(re.findall(r"(?<![\w-])--[a-z]+(?:-[a-z]+)*(?= )|--help|--version", out)) - {"--"} \
        <= set(complete("acapool ")), "every option of --help"
    assert complete("acapool --log-level w") == ["warning"]
    assert complete("acapool --listen ") == ["127.0.0.1:"]


@pytest.mark.skipif(not process.ACARUN.exists(), reason="not built")
def test_acarun(tmp_path):
    for name in ("a.py", "b.txt", "b.ipynb"):
        (tmp_path / name).touch()
    (tmp_path / "folder").mkdir()
    assert set(complete("acarun ", tmp_path)) == {"a.py", "b.ipynb", "folder", "tool-definition", "tool-call", "mcp"}
    assert complete("acarun --in") == ["--in-kernel"]
    assert complete("acarun --api ") == ["chat", "responses"]
    assert complete("acarun -o cache-s") == ["cache-size="]
    assert complete("acarun --output-dir f", tmp_path) == ["folder"]


def test_it_is_sound_bash():
    process.run(f"bash -n {shlex.quote(str(FILE))}")
