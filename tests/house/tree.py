# SPDX-License-Identifier: LGPL-2.1-or-later
"""The files of the source tree, and TAP."""

import os
import sys

ROOT = os.environ.get("SOURCE_ROOT") or os.path.normpath(os.path.join(os.path.dirname(__file__), "..", ".."))


def sources(*endings):
    """Paths relative to the root, build directories and hidden folders left out."""
    for folder, folders, files in os.walk(ROOT):
        folders[:] = sorted(f for f in folders if not f.startswith(".") and f != "__pycache__"
                            and not os.path.exists(os.path.join(folder, f, "build.ninja")))
        for name in sorted(files):
            if name.endswith(endings):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


def read_lines(path):
    with open(os.path.join(ROOT, path), encoding="utf-8", errors="replace") as lines:
        return lines.read().splitlines()


class Tap:
    def __init__(self):
        self.number = 0
        self.failed = 0

    def check(self, name, problems):
        """One test: fine without problems, else each of them is printed."""
        self.number += 1
        if problems:
            self.failed += 1
        print(f"{'not ok' if problems else 'ok'} {self.number} - {name}")
        for problem in problems:
            print(f"# {problem}")

    def end(self):
        print(f"1..{self.number}")
        sys.exit(1 if self.failed else 0)
