/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Rules about external objects. The text before the first zero byte is a file of rules, what follows an address and a
 * name to hold them against. A rule that was read must come back as it is from its own text. */

#include "fuzz.h"
#include "rules.h"
#include <stdlib.h>
#include <string.h>

static void check_rule(const Rule *rule, const ExternalObject *object) {
  g_autoptr(GError) error = NULL;
  g_autofree char *text = rule_text(rule);
  g_autoptr(Rule) again = rule_parse(text, "again", &error);
  g_autofree char *twice = again ? rule_text(again) : NULL;
  if (g_strcmp0(text, twice) != 0 || rule_matches(rule, object) != rule_matches(again, object))
    abort();
  if (rule->send)
    g_bytes_unref(rule_expand_send(rule, object));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  g_autoptr(Rules) rules = rules_new();
  g_autoptr(GError) error = NULL;
  size_t length = strnlen((const char *)data, size);
  g_autofree char *text = g_strndup((const char *)data, length);
  if (rules_add_text(rules, text, "fuzz", &error) != (error == NULL))
    abort();
  const uint8_t *rest = length < size ? data + length + 1 : data + length;
  g_autofree char *path = g_strndup((const char *)rest, (size_t)(data + size - rest));
  for (int kind = EXTERNAL_UNIX; kind <= EXTERNAL_PIPE; kind++) {
    ExternalObject o = {.kind = (ExternalKind)kind, .path = path, .comm = path, .fd = 3};
    o.sock.peer_name = rest;
    o.sock.peer_name_size = MIN((size_t)(data + size - rest), 108);
    o.sock.peer_comm = path;
    for (size_t i = 0; i < rules_size(rules); i++)
      check_rule(rules_get(rules, i), &o);
    (void)rules_find(rules, &o);
    (void)rules_find_checks(rules, &o);
  }
  return 0;
}
