#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Counts the tests of one `meson test` run: count_tests.py LOG.json LOG.junit.xml LABEL

Prints "PASSED FAILED SKIPPED EXCUSED", then a line for each test that did not pass. A test that
speaks TAP counts as many as it reports; one that ends badly without reporting a failure counts as
failed once more. Excused are those of the skipped whose reason begins with "this CPU": no set-up
could have run them.
"""

import json
import re
import sys
import xml.etree.ElementTree as xml

PASSED = {"OK", "EXPECTEDFAIL"}
SKIPPED = {"SKIP", "IGNORED"}


def subtests(junit):
    """Maps the name of each TAP test to its test cases."""
    found = {}
    for suite in xml.parse(junit).getroot().iter("testsuite"):
        project, dot, name = suite.get("name", "").partition(".")
        if dot:
            found[name] = list(suite.iter("testcase"))
    return found


def outcome(case):
    if case.find("failure") is not None or case.find("error") is not None:
        return "failed"
    return "skipped" if case.find("skipped") is not None else "passed"


def outcome_of(result):
    """Of a whole test, from meson's word for it."""
    return "passed" if result in PASSED else "skipped" if result in SKIPPED else "failed"


def main():
    log, junit, label = sys.argv[1:]
    taps = subtests(junit)
    counts = {"passed": 0, "failed": 0, "skipped": 0, "excused": 0}
    notes = []

    def add(result, name, reason=""):
        counts[result] += 1
        if result == "skipped" and re.search(r"(?m)^(SKIP:? *)?this CPU", reason or ""):
            counts["excused"] += 1
        if result != "passed":
            notes.append(f"{result}: {label}: {name}")

    with open(log, encoding="utf-8") as lines:
        tests = [json.loads(line) for line in lines if line.strip()]
    for test in tests:
        name = test["name"].split(" / ")[-1]
        overall = outcome_of(test["result"])
        cases = taps.get(test["name"], [])
        results = [(outcome(case), case) for case in cases]
        if not results:
            add(overall, name, test.get("stdout"))
            continue
        for single, case in results:
            add(single, f"{name}: {case.get('name')}", case.findtext("system-out"))
        if overall == "failed" and not any(single == "failed" for single, _ in results):
            add("failed", f"{name} ({test['result'].lower()})")
    print(*counts.values())
    print("\n".join(notes))


if __name__ == "__main__":
    main()
