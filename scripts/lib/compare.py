"""Compares the figures of two files of a bench's JSON lines: medians by name, and how much better or worse the second is."""

import json
import statistics
import sys


def figures(path):
    """Name and unit of each figure, with its values in the order of the file."""
    found = {}
    with open(path, encoding="utf-8") as lines:
        for line in map(json.loads, lines):
            if "value" in line:
                found.setdefault((line["name"], line["unit"]), []).append(line["value"])
    return found


def main():
    before, after = (figures(path) for path in sys.argv[1:3])
    print(f"{'':<52} {'before':>11} {'after':>11} {'unit':<11} {'':>8}  rounds differ by")
    for (name, unit), was in before.items():
        now = after.get((name, unit))
        if not now:
            continue
        b, a = statistics.median(was), statistics.median(now)
        # A rate is better when it is higher, a time or a size when it is lower.
        rate = unit.endswith("/s") or unit == "a second"
        gain = (a / b if rate else b / a) - 1 if a and b else 0.0
        noise = max((max(v) - min(v)) / statistics.median(v) if statistics.median(v) else 0.0 for v in (was, now))
        # Limits are the machine's, not ours.
        worse = "  WORSE" if gain < -0.03 and not name.startswith("limit:") else ""
        print(f"{name:<52.52} {b:>11.1f} {a:>11.1f} {unit:<11.11} {gain:>+8.1%}  {noise:.1%}{worse}")


main()
