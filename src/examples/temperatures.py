"""Reads temperatures.csv beside it, writes summary.txt, draws a chart of hashes."""

import csv
import statistics
import sys

unit = sys.argv[1] if len(sys.argv) > 1 else "C"
with open("temperatures.csv", newline="") as file:
    days = {row["day"]: float(row["celsius"]) for row in csv.DictReader(file)}
if unit == "F":
    days = {day: value * 9 / 5 + 32 for day, value in days.items()}

for day, value in days.items():
    print(f"{day}  {value:5.1f} {unit}  {'#' * round(value / 2)}")

with open("summary.txt", "w") as file:
    file.write(f"{len(days)} days, mean {statistics.mean(days.values()):.1f} {unit}\n")

# The value of the last expression becomes temperatures.py.result.
{"mean": round(statistics.mean(days.values()), 2), "warmest": max(days, key=days.get)}
