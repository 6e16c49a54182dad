#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""report.py VERSION DIRECTORY: what `meson test` logged inside the machine, as TAP. A suite without a log has failed."""
import glob
import json
import os
import sys

sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "../../tools/lib"))
import count_tests  # pylint: disable=wrong-import-position


def tail(text, lines=60):
    return "".join(f"#   {line}\n" for line in (text or "").splitlines()[-lines:])


def reason_of(text):
    """Of a skip: the last thing that was said."""
    said = [x for x in (text or "").splitlines() if x.strip()]
    return said[-1].removeprefix("SKIP:").removeprefix("SKIP").strip().replace("#", "")[:150] if said else "no reason given"


def tests_of(log):
    """(result, name, text) of all tests that a suite's log has, those of TAP one by one."""
    taps = count_tests.subtests(log.removesuffix(".json") + ".junit.xml")
    with open(log, encoding="utf-8") as lines:
        for test in [json.loads(line) for line in lines if line.strip()]:
            name = test["name"].split(" / ")[-1]
            said = f"{test.get('stdout') or ''}\n{test.get('stderr') or ''}"
            overall = count_tests.outcome_of(test["result"])
            single = [(count_tests.outcome(case), case) for case in taps.get(test["name"], [])]
            for result, case in single:
                yield result, f"{name}: {case.get('name')}", case.findtext("system-out") or said
            if not single or (overall == "failed" and not any(result == "failed" for result, _ in single)):
                yield overall, f"{name} ({test['result'].lower()}, {test['duration']:.0f} s)" if overall == "failed" else name, said


def main():
    version, directory = sys.argv[1:]
    number = failed = 0
    print(f"# kernel {version}")
    for text in sorted(x for x in glob.glob(os.path.join(directory, "*.txt")) if not os.path.basename(x).startswith("kernel-")):
        suite = os.path.basename(text).removesuffix(".txt")
        log = os.path.join(directory, f"kernel-{suite}.json")
        try:
            found = list(tests_of(log))
        except (OSError, ValueError, SyntaxError) as e:
            found = [("failed", f"no log of it: {e}", open(text, encoding="utf-8", errors="replace").read())]
        for result, name, said in found:
            number += 1
            label = f"{suite}: {name}".replace("#", "")
            failed += result == "failed"
            print(f"{'not ok' if result == 'failed' else 'ok'} {number} - {label}"
                  + (f" # SKIP {reason_of(said)}" if result == "skipped" else ""))
            if result == "failed":
                print(tail(said), end="", file=sys.stderr)
    print(f"1..{number}")
    sys.exit(1 if failed or not number else 0)


if __name__ == "__main__":
    main()
