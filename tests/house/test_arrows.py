#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""The direction of the arrows: which folder may include headers of which. See docs/architecture.md."""

import collections
import re

from tree import Tap, read_lines, sources

ENGINE = ["error", "job", "model", "image", "arch", "kernel", "remote", "namespace", "netns", "object", "policy", "plugin"]

# Folder -> folders whose headers it may include, besides its own. `proto` holds the generated
# messages. The longest folder that matches a file is the one it belongs to.
MAY_INCLUDE = {
    "proto": [],
    "engine/error": ["proto"],
    "engine/job": ["proto", "engine/error"],
    "engine/model": ["proto"],
    "engine/image": ["proto", "engine/model", "engine/error"],
    "engine/arch": ["proto", "engine/error"],
    "engine/kernel": ["engine/error", "proto"],
    "engine/remote": ["proto", "engine/error", "engine/kernel", "engine/arch"],
    "engine/namespace": ["proto"] + [f"engine/{f}" for f in ("error", "job", "model", "image", "kernel")],
    "engine/netns": ["proto"] + [f"engine/{f}" for f in ("error", "job", "model", "image", "kernel")],
    "engine/object": ["proto"] + [f"engine/{f}" for f in
                      ("error", "job", "model", "image", "kernel", "remote", "arch", "namespace", "netns")],
    "engine/policy": ["proto"] + [f"engine/{f}" for f in ("error", "job", "model", "object")],
    "engine/plugin": ["proto", "plugins"] + [f"engine/{f}" for f in ("error", "job", "model", "kernel")],
    "engine/dump": ["proto"] + [f"engine/{f}" for f in ENGINE],
    "engine/restore": ["proto"] + [f"engine/{f}" for f in ENGINE],
    "engine/describe": ["proto"] + [f"engine/{f}" for f in ("error", "job", "model", "image")],
    "engine": ["proto"] + [f"engine/{f}" for f in ENGINE + ["dump", "restore", "describe"]],
    "daemon": ["proto", "dbus", "engine/error"],
    "dbus": [],
    "dbus/client": [],
    "plugins": ["proto"], # messages of their own
    "tools/checkpoint": ["proto", "dbus/client"],
    "tools/criu": ["proto", "engine"] + [f"engine/{f}" for f in ENGINE + ["dump", "restore"]],
    "tools": [],
    "docs/examples": ["dbus/client", "plugins"],
    "tests": None,  # everything
}

# Generated at the top of the build directory, for everyone.
GENERATED = {"config.h"}

INCLUDE = re.compile(r'^\s*#\s*include\s+"([^"]+)"')


def folder_of(path):
    fitting = [f for f in MAY_INCLUDE if path.startswith(f + "/")]
    return max(fitting, key=len, default=None)


def homes(headers):
    """Maps the name of each header to the files of that name."""
    found = collections.defaultdict(list)
    for header in headers:
        found[header.rsplit("/", 1)[-1]].append(header)
    return found


def check_include(path, name, found):
    """What is wrong with one #include, or None."""
    folder = folder_of(path)
    if name in GENERATED:
        return None
    if name.endswith(".pb-c.h"):
        home = "proto"
    elif "/" in name:
        return "a path: headers are included by name alone"
    elif name not in found:
        return "no such header in the tree"
    else: # the compiler looks beside the file first
        places = [folder_of(p) for p in found[name]]
        home = folder if folder in places else places[0]
    allowed = MAY_INCLUDE[folder]
    if allowed is None or home == folder or home in allowed:
        return None
    return f"{folder} must not know {home}"


def main():
    tap = Tap()
    code = list(sources(".c", ".h", ".S"))
    found = homes(p for p in code if p.endswith(".h"))

    lost = [p for p in code if folder_of(p) is None]
    tap.check("every file lies in a known folder", lost)

    twice = [" and ".join(paths) for paths in found.values() if len(paths) > 1]
    tap.check("header names are unique", twice)

    wrong = []
    for path in code:
        if folder_of(path) is None:
            continue
        for number, line in enumerate(read_lines(path), 1):
            match = INCLUDE.match(line)
            problem = match and check_include(path, match.group(1), found)
            if problem:
                wrong.append(f'{path}:{number}: "{match.group(1)}": {problem}')
    tap.check("includes go up the table only", wrong)
    tap.end()


if __name__ == "__main__":
    main()
