"""Writes a C header that holds a text file as a NUL-terminated array: embed.py INPUT OUTPUT."""
import os
import re
import sys

source, target = sys.argv[1:]
data = open(source, "rb").read()
name = re.sub(r"\W", "_", os.path.basename(source))
rows = [", ".join(str(b) for b in data[i:i + 20]) for i in range(0, len(data), 20)]
with open(target, "w") as out:
    out.write("/* Generated from %s. */\nstatic const char %s[] = {\n" % (os.path.basename(source), name))
    out.write("".join("    %s,\n" % row for row in rows) + "    0};\n")
