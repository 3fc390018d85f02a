"""What is written about the programs, against what they say of themselves."""

import re
import shutil
from pathlib import Path

import pytest

from support import process

TOP = Path(__file__).resolve().parents[1]
PAGES = [TOP / page for page in ("src/acafs/acafs.8", "src/acarun/acarun.1", "src/acapool/acapool.8", "src/config/acafs.conf.5")]
SAMPLE = TOP / "etc/acafs.conf"


def settings(text):
    """{(section, key): value, or None for what is not set} of what `acafs config` prints."""
    found, section = {}, None
    for line in text.splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line:
            key, value, origin = re.fullmatch(r"(?:# )?(\S+) = (.*?)\s*; (.*)", line).groups()
            found[section, key] = None if origin == "not set" else value
    return found


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """Every setting with its default."""
    env = process.environment(HOME=tmp_path_factory.mktemp("home"), ACAFS_CONFIG="/dev/null")
    return settings(process.run([process.ACAFS, "config"], env=env).stdout)


@pytest.fixture(scope="module")
def options():
    """The names of the settings on the command line."""
    out = process.run([process.ACAFS, "config", "--options"], env=process.environment()).stdout
    return re.findall(r"^([a-z][a-z_-]*)(?:=[A-Z]+)?  ", out, re.M)


def plain_text(text):
    """As it is read: without its markup."""
    return re.sub(r"\\f[A-Z]|^\.\w+ ?|\"", "", text.replace("\\-", "-").replace("\\e", "\\"), flags=re.M)


def plain(page):
    return plain_text(page.read_text())


def subsections(page):
    """{heading: text} of a page's .SH and .SS."""
    parts = re.split(r"^\.S[HS] (.*)$", page.read_text().replace("\\-", "-"), flags=re.M)
    return dict(zip(parts[1::2], parts[2::2]))


# --- the sample configuration

def sample():
    """{(section, key): value} of the lines that are switched off, [session NAME] apart."""
    found, section = {}, None
    for line in SAMPLE.read_text().splitlines():
        if match := re.fullmatch(r"#?\[(.*)\]", line):
            section = match[1]
        elif match := re.fullmatch(r"#([a-z][a-z_-]*) = (.*)", line):
            assert (section, match[1]) not in found, f"{match[1]} twice"
            found[section, match[1]] = match[2]
        else:
            assert not line or line.startswith("# "), f"a line that does something: {line}"
    return found


def test_the_sample_has_every_key_and_its_default(table):
    found = {place: value for place, value in sample().items() if not place[0].startswith("session ")}
    assert list(found) == list(table), "in the order of the program's table"
    depends = {("cache", "dir"), ("local", "socket")}  # on the user
    wrong = {place: (found[place], value) for place, value in table.items()
             if value is not None and place not in depends and found[place] != value}
    assert not wrong, f"(in the sample, in the program): {wrong}"


def test_the_sample_is_accepted(tmp_path):
    check = [process.ACAFS, "config", "--check"]
    process.run([*check, SAMPLE])
    bare = tmp_path / "bare.conf"
    bare.write_text(re.sub(r"^#(?=\[|[a-z][a-z_-]* = )", "", SAMPLE.read_text(), flags=re.M))
    assert len(re.findall(r"^[a-z]", bare.read_text(), re.M)) == len(sample())
    process.run([*check, bare])
    bare.write_text(bare.read_text().replace("\numask = 022", "\numask = 999"))
    assert process.run([*check, bare], check=False).returncode == 78


def test_the_session_of_the_sample_overrides(tmp_path):
    text = re.sub(r"^#(?=\[session |\S+ = )", "", SAMPLE.read_text()[SAMPLE.read_text().index("#[session "):], flags=re.M)
    name = re.search(r"\[session (.*)\]", text)[1]
    (tmp_path / "a.conf").write_text(text)
    env = process.environment(HOME=tmp_path, ACAFS_CONFIG=tmp_path / "a.conf", ACAFS_SESSION=name)
    now = settings(process.run([process.ACAFS, "config"], env=env).stdout)
    assert now["cache", "size"] == "512M" and now["mount", "umask"] == "077"


# --- the pages

@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_are_sound(page):
    if shutil.which("mandoc"):
        out = process.run(["mandoc", "-Tlint", "-W", "warning", page], check=False)
        assert out.returncode == 0, out.stdout
    if shutil.which("groff"):
        out = process.run(["groff", "-ww", "-man", "-z", "-Tascii", page], check=False)
        assert not out.stderr, out.stderr
    if not shutil.which("mandoc") and not shutil.which("groff"):
        pytest.skip("neither mandoc nor groff is here")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_pages_have_their_parts(page):
    has = subsections(page)
    wanted = {"NAME", "SYNOPSIS", "DESCRIPTION", "EXAMPLES", "SEE ALSO"}
    if page.suffix != ".5":
        wanted |= {"OPTIONS", "EXIT STATUS"}
    assert wanted <= set(has), f"lacks {wanted - set(has)}"


def test_pages_name_each_other():
    for page in PAGES:
        for name, section in re.findall(r"\.BR (aca[\w.]+) \((\d)\)", page.read_text()):
            assert any(it.name == f"{name}.{section}" for it in PAGES), f"{page.name} names {name}({section})"


def test_the_page_of_acafs_has_every_option(options):
    text = plain(TOP / "src/acafs/acafs.8")
    assert len(options) > 25
    missing = [name for name in options if not re.search(rf"(?<![\w-]){re.escape(name)}(?![\w-])", text)]
    assert not missing


def test_the_page_of_the_configuration_has_every_key(table, options):
    parts = subsections(TOP / "src/config/acafs.conf.5")
    for section, key in table:
        line = re.search(rf'^\.BR {re.escape(key)} " \(" (\S+) ", " (\S+) \)$', parts[f"[{section}]"], re.M)
        assert line, f"{key} is not under [{section}]"
        assert line[1] in options and line[2] == ("ACAFS_POOL_ENDPOINT" if key == "endpoint" else
                                                  "ACAFS_" + line[1].upper().replace("-", "_"))


def test_defaults_in_the_page_of_the_configuration(table):
    parts = subsections(TOP / "src/config/acafs.conf.5")
    for (section, key), value in table.items():
        about = re.split(r"^\.TP$", parts[f"[{section}]"].partition(f".BR {key} ")[2], flags=re.M)[0]
        if value is not None and (section, key) not in {("cache", "dir"), ("local", "socket"), ("pool", "endpoint")}:
            assert re.search(rf"Default\s+(\.BR? )?{re.escape(value)}\b", about), f"{section} {key}: {value}"


@pytest.mark.parametrize("program", ["ACAFS", "ACARUN", "ACAPOOL"])
def test_help_fits_a_screen(program):
    lines = process.run([getattr(process, program), "--help"], env=process.environment()).stdout.splitlines()
    assert 10 < len(lines) <= 24
    assert [line for line in lines if len(line) > 80] == []


def test_help_has_every_command():
    """Of acafs, as its page has them."""
    out = process.run([process.ACAFS, "--help"], env=process.environment()).stdout
    commands = re.findall(r"^acafs ([a-z-]+(?: --[a-z]+)?)", plain_text(subsections(PAGES[0])["COMMANDS"]), re.M)
    assert len(commands) >= 7 and not [command for command in commands if f"acafs {command} " not in out]


@pytest.mark.parametrize("program, page", [("ACARUN", "src/acarun/acarun.1"), ("ACAPOOL", "src/acapool/acapool.8")])
def test_pages_have_every_option_of_their_program(program, page):
    out = process.run([getattr(process, program), "--help"], env=process.environment()).stdout
    told = set(re.findall(r"(?:^|[\s,])(--[a-z]+(?:-[a-z]+)*)", out, re.M)) | \
        set(re.findall(r"^ +(-[a-zA-Z])[, ]", out, re.M))
    assert len(told) > 12
    text = plain(TOP / page)
    missing = [name for name in told if not re.search(rf"(?<![\w-]){name}(?![\w-])", text)]
    assert not missing, f"{page} lacks {missing}"


@pytest.mark.parametrize("program, source, page", [
    ("ACAFS", "src/acafs/main.c", "src/acafs/acafs.8"), ("ACARUN", "src/acarun/options.c", "src/acarun/acarun.1"),
    ("ACAPOOL", "src/acapool/options.c", "src/acapool/acapool.8")])
def test_every_option_is_told(program, source, page):
    taken = re.findall(r'^ .*\{"([a-z-]+)", (?:no|required|optional)_argument', (TOP / source).read_text(), re.M)
    assert len(taken) > 2
    out, text = process.run([getattr(process, program), "--help"], env=process.environment()).stdout, plain(TOP / page)
    missing = [name for name in taken if not all(re.search(rf"(?<![\w-])--{name}(?![\w-])", it) for it in (out, text))]
    assert not missing


@pytest.mark.parametrize("header, page", [("src/acafs/daemon.h", "src/acafs/acafs.8"),
                                          ("src/acarun/exit.h", "src/acarun/acarun.1")])
def test_pages_have_every_exit_status(header, page):
    codes = set(re.findall(r"^ *EXIT_\w+ = (\d+),", (TOP / header).read_text(), re.M))
    told = set(re.findall(r"^\.B (\d+)$", subsections(TOP / page)["EXIT STATUS"], re.M))
    assert codes == told


# --- README.md and the map of the source

def test_the_readme_has_the_table_of_options(table, options):
    rows = re.findall(r"^\| `([a-z_-]+)(?:=[A-Z]+)?` \| `\[(\w+)\] (\S+)` \| `(\w+)` \| (.*?) \| .+ \|$",
                      (TOP / "README.md").read_text(), re.M)
    assert [row[0] for row in rows] == options
    assert [(section, key) for _, section, key, *_ in rows] == list(table)
    for name, section, key, variable, default in rows:
        assert variable == ("ACAFS_POOL_ENDPOINT" if name == "endpoint" else "ACAFS_" + name.upper().replace("-", "_"))
        if table[section, key] is not None and name not in ("cache-dir", "local-socket"):
            assert default == f"`{table[section, key]}`", name


def test_the_readme_has_every_exit_status():
    text = (TOP / "README.md").read_text()
    part = text[text.index("## Exit codes"):]
    told = set(re.findall(r"\d+", " ".join(re.findall(r"^\| ([\d, ]+) \|", part, re.M))))
    for header in ("src/acafs/daemon.h", "src/acarun/exit.h"):
        assert set(re.findall(r"^ *EXIT_\w+ = (\d+),", (TOP / header).read_text(), re.M)) <= told


def test_the_picture_in_the_readme_is_real(tmp_path):
    """The script's output is that of the script that the reader finds."""
    for file in (TOP / "src/examples").iterdir():
        shutil.copy(file, tmp_path)
    out = process.run(["/usr/bin/python3", "temperatures.py", "F"], cwd=tmp_path).stdout
    picture = (TOP / "README.md").read_text().split("```")[1]
    assert out in picture and (tmp_path / "summary.txt").read_text() in picture


def test_the_map_names_what_is_there():
    rows = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", (TOP / "src/README.md").read_text(), re.M))
    folders = {path.name for path in (TOP / "src").iterdir() if any(path.glob("*.c"))}
    assert set(rows) == folders
    for folder, text in rows.items():
        for name in re.findall(r"`([\w.*]+)`", text):
            known = [*(TOP / "src" / folder).glob(name), *(TOP / "src" / folder).glob(f"{name}.[ch]")]
            assert known or name in {"acapool", "acafs", "acarun", ".acafs"}, f"{folder}: {name}"
