/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Questions that only a thread of the tree can put: whoever has the agents answers them. */

#include "internal.h"

typedef struct Asker {
  CollectorAsk ask;
  void *data;
} Asker;

static gpointer asker_new(void) {
  return g_new0(Asker, 1);
}

static Asker *asker_of(Collector *c) {
  static const char key;
  return collector_state(c, &key, asker_new, g_free);
}

void collector_set_ask(Collector *c, CollectorAsk ask, void *data) {
  *asker_of(c) = (Asker){ask, data};
}

bool collector_ask(Collector *c, pid_t pid, pid_t tid, const Program *p, gint64 *results, unsigned char *data, size_t size, GError **error) {
  const Asker *a = asker_of(c);
  if (!a->ask)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED, "tid %d cannot be asked", (int)tid);
  return a->ask(a->data, pid, tid, p, results, data, size, error);
}
