/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* One rule about external objects, as people write it (checkpoint-external(5)):
 *
 *     unix:path=/dev/log action=reconnect
 *     unix:peer-comm=nscd action=close
 *     file:path=/srv/data.db action=embed
 *     file:path=/a action=remap:/b
 *
 * First the kind of object, then conditions, all of which must hold, and what to do. Parsing and matching are pure:
 * nothing is looked up. */

#include "external.h"

typedef struct Rule {
  ExternalKind kind;
  /* Conditions; NULL or 0 where the rule does not care. */
  char *path;      /* of files and devices; the address a socket is connected to */
  char *local;     /* the address a socket is bound to */
  char *comm;      /* the application's process */
  char *peer_comm; /* who holds the other end; of a pipe too */
  gint64 peer_uid; /* -1 */
  gint64 peer_pid; /* -1 */
  int type;        /* SOCK_STREAM, … */
  guint64 ino, peer_ino;
  gint64 fd;   /* -1 */
  gint64 rdev; /* -1; of a device */
  /* Decisions. */
  ExternalAction action; /* EXTERNAL_NOBODY: none, the rule only sets checks */
  char *value;           /* behind the action's colon; may be NULL */
  bool has_checks;
  unsigned checks;  /* EXTERNAL_CHECK_* */
  bool drop_unread; /* reconnect: what was not read yet may be lost */
  char *send;       /* reconnect: what is said first; escapes are expanded when it is said */
  char *reason, *cure; /* fail */
  char *source;        /* where it stands: "option external", "/etc/…/x.conf line 3" */
} Rule;

void rule_free(Rule *rule);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(Rule, rule_free)

/* NULL with INVALID_ARGS that says what is wrong, and where. @source is for messages. */
Rule *rule_parse(const char *text, const char *source, GError **error);
/* The rule in the words of the grammar, newly allocated. rule_parse() of it gives the same rule. */
char *rule_text(const Rule *rule);
/* Whether all conditions hold. A condition about something that is not known does not. */
bool rule_matches(const Rule *rule, const ExternalObject *object);
/* The plugin that the rule's action sends an object to: what plugin:NAME names, or the one behind dbus and embed; NULL: any
 * (action=plugin), or none. *argument (owned, the rule's value before) becomes what stands behind that name, or NULL. */
char *rule_plugin(const Rule *rule, char **argument);
/* The same of an action that a checkpoint has: "dbus" and "embed" were no plugins before. Static; NULL: none. */
const char *rule_plugin_of(ExternalAction action);
/* An address as rules write it: "/run/x", "@abstract", "" for none; newly allocated. */
char *rule_address(const guint8 *name, gsize size);
/* The sun_path of an address of a rule; NULL if it is none (no absolute path, no @name, too long). */
GBytes *rule_address_bytes(const char *address);
/* What `send` of a rule says for an object: \n \t \0 \\ \xHH, %c the application's name, %p its pid, %% a percent sign. */
GBytes *rule_expand_send(const Rule *rule, const ExternalObject *object);
