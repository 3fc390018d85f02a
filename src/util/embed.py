"""Writes a C header that holds a Python program as a NUL-terminated array: embed.py INPUT OUTPUT DEPFILE.

In the session, where it runs, there is no other file of ours. So a line `from NAME import …  # embed.py`
is replaced by NAME.py of this directory, but for its docstring."""
import ast
import os
import re
import sys

HERE = os.path.dirname(os.path.abspath(__file__))
IMPORT = re.compile(rb"^from (\w+) import [\w, ]+  # embed\.py\n", re.MULTILINE)


def part(name, used):
    path = os.path.join(HERE, name.decode() + ".py")
    used.append(path)
    with open(path, "rb") as file:
        text = file.read()
    docstring = ast.parse(text).body[0]
    return b"".join(text.splitlines(True)[docstring.end_lineno:]).strip(b"\n") + b"\n"


def main(source, target, depfile):
    used = [source]
    with open(source, "rb") as file:
        data = IMPORT.sub(lambda match: part(match[1], used), file.read())
    compile(data, source, "exec")
    name = re.sub(r"\W", "_", os.path.basename(source))
    rows = [", ".join(str(b) for b in data[i:i + 20]) for i in range(0, len(data), 20)]
    with open(target, "w") as out:
        out.write("/* Generated from %s. */\nstatic const char %s[] = {\n" % (os.path.basename(source), name))
        out.write("".join("    %s,\n" % row for row in rows) + "    0};\n")
    with open(depfile, "w") as out:
        out.write("%s: %s\n" % (target, " ".join(each.replace(" ", "\\ ") for each in used)))


main(*sys.argv[1:])
