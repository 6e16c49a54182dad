#!/usr/bin/env python3
# SPDX-License-Identifier: LGPL-2.1-or-later
"""Whatever can be said to a program of ours is in its manual page, and in the completion: options of the commands, keys of rules and of
manifests, messages of plugins, members of the library's structures, environment variables. (The bus is held by tests/daemon.)"""

import os
import re

from tree import ROOT, Tap, read_lines, sources


def text(path):
    return "\n".join(read_lines(path))


def manual(page):
    """As it is read: without the marks of dashes and fonts."""
    return re.sub(r"\\f[BIRP]", "", text(f"docs/man/{page}").replace("\\-", "-").replace("\\&", ""))


def has_word(page, word):
    return re.search(rf"(?<![\w-]){re.escape(word)}(?![\w-])", page)


def missing(page, words):
    shown = manual(page)
    return [f"{page} does not know {word}" for word in words if not has_word(shown, word)]


def options_of_the_drop_in():
    rows = re.findall(r'\n    \{"([a-z-]+)", (?:\'(.)\'|0),', text("tools/criu/options.c"))
    actions = re.findall(r'\n    \{"([a-z-]+)", CRIU_ACTION_', text("tools/criu/options.c"))
    yield "the drop-in has options", [] if len(rows) > 40 and len(actions) > 8 else ["the table cannot be read"]
    yield "options of checkpoint-criu(8)", missing("checkpoint-criu.8", ["--" + name for name, _ in rows] + ["-" + s for _, s in rows if s])
    refused = re.findall(r'REFUSED\("([a-z-]+)"', text("tools/criu/options.c"))
    yield "options of CRIU's that are refused", missing("checkpoint-criu.8", ["--" + name for name in refused])
    yield "actions of checkpoint-criu(8)", missing("checkpoint-criu.8", actions)


def options_of_the_command():
    source = text("tools/checkpoint/command-options.c")
    rows = re.findall(r'\n    \{"([a-z-]+)", \w+_argument, NULL, (\'.\'|\w+)\}', source)
    names = {value: name for name, value in rows}
    verbs = {names[value]: said.split() for value, said in re.findall(r'\n    \{(\'.\'|OPTION_\w+), "([a-z ]+)"\}', source)}
    yield "the command has options", [] if len(rows) > 20 and len(verbs) > 10 else ["the table cannot be read"]
    short = ["-" + value[1] for _, value in rows if value.startswith("'")]
    yield "options of checkpoint(1)", missing("checkpoint.1", ["--" + name for name, _ in rows] + short)
    completion = text("tools/checkpoint/checkpoint.bash")
    common = re.search(r"common='([^']*)'", completion)[1].split()
    offered = {}
    for cases, words in re.findall(r"\n      ([a-z |]+)\) common\+=' ([^']*)'", completion):
        for verb in cases.split(" | "):
            offered[verb] = words.split()
    wrong = [f"{verb} does not complete --{name}" for name, said in verbs.items() for verb in said if f"--{name}" not in offered.get(verb, [])]
    wrong += [f"{verb} completes {word}, which it does not take" for verb, words in offered.items() for word in words
              if verb not in verbs.get(word[2:], [])]
    wrong += [f"--{name} is not completed everywhere" for name, _ in rows if name not in verbs and f"--{name}" not in common]
    yield "completion of checkpoint(1), verb by verb", wrong
    listed = set(re.search(r"local verbs='([^']*)'", completion)[1].split())
    known = set(re.findall(r'\n    \{"([a-z]+)", ', text("tools/checkpoint/main.c")))
    yield "verbs are completed", [f"{verb} is only here or there" for verb in listed ^ known]
    yield "verbs of checkpoint(1)", missing("checkpoint.1", known)


def rules():
    source = text("engine/policy/rule.c")
    keys = re.findall(r'\n    \{"([a-z-]+)", [A-Z |]+, read_', source)
    actions = re.findall(r'"([a-z]+)"', re.search(r" action_names\[.*?\};", text("engine/object/external-names.c"), re.S)[0])[1:]
    yield "rules have keys and actions", [] if len(keys) > 12 and len(actions) > 8 else [f"the tables cannot be read: {keys} {actions}"]
    yield "keys of checkpoint-external(5)", missing("checkpoint-external.5", keys)
    yield "actions of checkpoint-external(5)", missing("checkpoint-external.5", actions)


def plugins():
    keys = re.findall(r'GROUP, "(\w+)"', text("engine/plugin/manifest-file.c"))
    messages = re.findall(r"\n  (PLUGIN_\w+) = \d+;", text("proto/plugin.proto"))
    yield "plugins have keys and messages", [] if len(keys) > 8 and len(messages) > 15 else ["they cannot be read"]
    yield "manifests in checkpoint-plugin(5)", missing("checkpoint-plugin.5", keys)
    yield "messages in checkpoint-plugin(5)", missing("checkpoint-plugin.5", [m for m in messages if m != "PLUGIN_ANSWER"])
    lines = text("docs/plugins.md")
    members = re.findall(r"\(\*(\w+)\)\(", text("plugins/include/checkpoint-plugin.h"))
    yield "every member of checkpoint-plugin.h is in docs/plugins.md", [m for m in members if not re.search(rf"\b{m}\b", lines)]
    yield "every key of manifests is in docs/plugins.md", [k for k in keys if f"{k}=" not in lines]


def library():
    header = text("dbus/client/libcheckpoint.h")
    words = set(re.findall(r"\b(checkpoint_\w+)\(", header))
    for _, members in re.findall(r"struct (\w+) \{(.*?)\n\}", header, re.S):
        words |= set(re.findall(r"(\w+)(?:\[\w*\])?;", members)) - {"reserved"}
    yield "functions and members of checkpoint(3)", missing("checkpoint.3", sorted(words))


def environment():
    """Those that only make a kernel look older, for tests, are nobody's business."""
    found, shown = set(), ""
    for path in sources(".c"):
        if path.startswith(("engine/", "daemon/", "tools/", "dbus/")):
            found |= {name for name in re.findall(r'getenv\("(\w+)"\)', text(path)) if not name.startswith("CHECKPOINTD_NO_")}
    for page in os.listdir(f"{ROOT}/docs/man"):
        shown += manual(page)
    own = {name for name in found if name.startswith(("CHECKPOINT", "CRIU"))}
    yield "environment variables", [f"{name} is in no manual" for name in sorted(own) if not has_word(shown, name)]


def main():
    tap = Tap()
    for part in (options_of_the_drop_in, options_of_the_command, rules, plugins, library, environment):
        for name, problems in part():
            tap.check(name, problems)
    tap.end()


main()
