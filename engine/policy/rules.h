/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* Rules in their order: the first one that fits an object decides about it. */

#include "rule.h"

typedef struct Rules Rules;
Rules *rules_new(void);
void rules_free(Rules *rules);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rules, rules_free)

/* One rule. false with INVALID_ARGS. */
bool rules_add(Rules *rules, const char *text, const char *source, GError **error);
/* The text of a file: a rule a line, empty lines and those that begin with # left out; a backslash at the end of a line
 * joins the next. @name is for messages. */
bool rules_add_text(Rules *rules, const char *text, const char *name, GError **error);
/* Every *.conf of the directories (with colons between them), in the order of their names; a file hides one of the same
 * name in a later directory, even if it is empty. A directory that is not there has no rules. Files and directories must
 * belong to root or to us, and be writable by nobody else. */
bool rules_add_directories(Rules *rules, const char *paths, GError **error);
/* The first rule with an action, or with checks, that fits; NULL if none does. */
const Rule *rules_find(const Rules *rules, const ExternalObject *object);
const Rule *rules_find_checks(const Rules *rules, const ExternalObject *object);
/* Whether any rule is about that kind. */
bool rules_speak_of(const Rules *rules, ExternalKind kind);
size_t rules_size(const Rules *rules);
const Rule *rules_get(const Rules *rules, size_t i);
/* $CHECKPOINTD_EXTERNAL_DIR, else the administrator's and then the shipped one. */
const char *rules_directories(void);
