/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sleep-note.h"
#include "proc.h"
#include <linux/keyctl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define NSEC 1000000000ll
#define MAX_BYTES 32767 /* of a key of type user */
#define MAX_SECONDS (30 * 24 * 3600)

guint64 sleep_runs(pid_t pid, pid_t tid) {
  char name[64];
  guint64 used, waited, runs = 0;
  g_snprintf(name, sizeof name, "task/%d/schedstat", (int)tid);
  g_autofree char *text = proc_read(pid, name, NULL, NULL);
  return text && sscanf(text, "%" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT " %" G_GUINT64_FORMAT, &used, &waited, &runs) == 3 ? runs : 0;
}

/* A session need not lead to its user's keyring, and only what it leads to may be read. Each thread has to see to that. */
static bool have_keyring(void) {
  static __thread int known = -1;
  if (known < 0)
    known = syscall(SYS_keyctl, KEYCTL_LINK, KEY_SPEC_USER_KEYRING, KEY_SPEC_PROCESS_KEYRING) == 0;
  return known;
}

static void describe(pid_t pid, guint64 start_time, char description[static 64]) {
  g_snprintf(description, 64, "checkpointd:sleep:%d:%" G_GUINT64_FORMAT, (int)pid, start_time);
}

void sleep_notes_keep(pid_t pid, guint64 start_time, const GArray *notes) {
  char description[64];
  struct timespec now;
  gint64 last = 0;
  if (!notes->len || notes->len > MAX_BYTES / sizeof(SleepNote) || !have_keyring())
    return;
  for (guint i = 0; i < notes->len; i++)
    last = MAX(last, g_array_index(notes, SleepNote, i).end_nsec);
  clock_gettime(CLOCK_MONOTONIC, &now);
  describe(pid, start_time, description);
  long key = syscall(SYS_add_key, "user", description, notes->data, notes->len * sizeof(SleepNote), KEY_SPEC_USER_KEYRING);
  if (key >= 0)
    (void)syscall(SYS_keyctl, KEYCTL_SET_TIMEOUT, key, CLAMP(last / NSEC - now.tv_sec + 2, 1, MAX_SECONDS));
}

GArray *sleep_notes_find(pid_t pid, guint64 start_time) {
  char description[64];
  describe(pid, start_time, description);
  long key = have_keyring() ? syscall(SYS_keyctl, KEYCTL_SEARCH, KEY_SPEC_USER_KEYRING, "user", description, 0) : -1;
  g_autofree void *bytes = key >= 0 ? g_malloc(MAX_BYTES) : NULL;
  long n = bytes ? syscall(SYS_keyctl, KEYCTL_READ, key, bytes, MAX_BYTES) : -1;
  if (n <= 0 || n > MAX_BYTES || (size_t)n % sizeof(SleepNote) != 0)
    return NULL;
  GArray *notes = g_array_new(FALSE, FALSE, sizeof(SleepNote));
  g_array_append_vals(notes, bytes, (guint)((size_t)n / sizeof(SleepNote)));
  return notes;
}
