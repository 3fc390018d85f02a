"""Names: what Linux allows must work, whatever the service's file calls think of it."""

import errno
import os

import pytest

from support.process import run

# Names beyond a-z: those that URLs, multipart headers, JSON and shells trip over, and those
# that the service's own file calls refuse (api: letters, digits, - _ space . @ $ & = ; , # % ^ ( )).
NAMES = [
    "with space", " leading", "trailing ", "two  spaces", "%", "100%", "%41", "%2F", "%zz", "a#b", "#",
    "a?b", "a&b=c", "a+b", "+", "semi;colon", "comma,", "'single'", '"double"', "back\\slash", "`tick`",
    "$HOME", "a~", "~", "x:y", "C:", "a*b", "[a]", "{a}", "<a>", "a|b", "!", "a\tb", "a\nb", "\x01",
    ".hidden", "..dots", "...", "-rf", "--", "index.html", "content", "files", "con", "NUL", "a.b.c", "a.",
    "é", "e\u0301", "日本語.txt", "Ω≈ç√", "😀.py", "\u202egnp", "ÿ" * 127, "😀" * 63, "n" * 255, "acafs-stage",
    "null", "true", "0", "None",
]


@pytest.mark.parametrize("name", NAMES, ids=[ascii(name)[:24] for name in NAMES])
def test_a_file_of_any_name(folder, name):
    path = folder / name
    path.write_bytes(name.encode())
    assert os.listdir(folder) == [name]
    assert path.read_bytes() == name.encode()
    handle = os.open(path, os.O_WRONLY | os.O_APPEND)
    os.write(handle, b"!")
    os.fsync(handle)
    os.close(handle)
    os.rename(path, folder / "plain")
    assert os.listdir(folder) == ["plain"]
    os.rename(folder / "plain", path)
    assert path.read_bytes() == name.encode() + b"!"
    path.unlink()
    assert os.listdir(folder) == []


@pytest.mark.parametrize("name", ["with space", "100%", "a#b", "a+b", "v1.2", ".git", "x:y", "é", "d" * 255])
def test_a_directory_of_any_name(folder, name):
    (folder / name).mkdir()
    (folder / name / "in side").write_text("x")
    (folder / name / "deep").mkdir()
    (folder / name / "deep" / name).write_text("y")
    assert sorted(os.listdir(folder / name)) == ["deep", "in side"]
    os.rename(folder / name, folder / "other")
    assert (folder / "other" / "deep" / name).read_text() == "y"


def test_names_linux_does_not_take(folder):
    for name in ("n" * 256, "é" * 128):
        for call in (lambda path: path.write_text("x"), os.mkdir, os.stat, os.listdir,
                     lambda path: os.symlink("x", path)):
            with pytest.raises(OSError) as error:
                call(folder / name)
            assert error.value.errno == errno.ENAMETOOLONG


def test_a_name_that_is_not_utf8(folder):
    """JSON and the service know only Unicode: refused at once, or kept as it is. Never mangled."""
    raw = os.fsencode(folder) + b"/\xff\xfe"
    try:
        with open(raw, "wb") as file:
            file.write(b"x")
    except OSError as error:
        assert error.errno in (errno.EILSEQ, errno.EINVAL)
        assert os.listdir(folder) == []
    else:
        assert os.listdir(os.fsencode(folder)) == [b"\xff\xfe"]


def test_deep_directories(folder):
    deep = folder.joinpath(*"abcdefghijkl")
    deep.mkdir(parents=True)
    (deep / "file").write_text("down here")
    assert run("find . -type f | xargs cat", cwd=folder).stdout == "down here"
    os.rename(folder / "a/b/c", folder / "c")
    assert (folder.joinpath(*"cdefghijkl") / "file").read_text() == "down here"


def test_empty_files(folder):
    for n in range(20):
        (folder / f"empty{n}").touch()
    (folder / "emptied").write_text("x")
    (folder / "emptied").write_text("")
    assert all(os.stat(folder / name).st_size == 0 for name in os.listdir(folder))
    assert (folder / "empty3").read_bytes() == b""


def test_git_config_where_the_service_refuses_dots(folder):
    (folder / ".git/refs.d").mkdir(parents=True)
    (folder / ".git/config").write_text("[core]\n")
    (folder / ".git/refs.d/a~").write_text("tilde")
    assert run("grep -r . .git | sort", cwd=folder).stdout == ".git/config:[core]\n.git/refs.d/a~:tilde\n"


def test_case_matters(folder):
    (folder / "a").write_text("small")
    (folder / "A").write_text("big")
    assert ((folder / "a").read_text(), (folder / "A").read_text()) == ("small", "big")


@pytest.mark.session
@pytest.mark.parametrize("name", ["with space", "100%", "%41", "a#b", "a+b", "a~", "x:y", "é", "日本語", "q'\"q",
                                  "n" * 255, "index.html"])
def test_the_session_sees_the_same_name(shared_mount, folder, name):
    """What is written here is there under that very name, and the other way round."""
    import json
    (folder / name).write_text("from here")
    shared_mount.sync()
    pool, session = shared_mount.pool, shared_mount.session
    there = f"/mnt/data/{folder.name}/{name}"
    assert pool.run(session, f"open({json.dumps(there)}).read()") == "from here"
    pool.run(session, f"open({json.dumps(there + '2' if len(name) < 255 else there)}, 'w').write('from there')")
    shared_mount.control("refresh")
    assert (folder / (name + "2" if len(name) < 255 else name)).read_text() == "from there"
