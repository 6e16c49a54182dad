/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernel-memo.h"
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define BOOT_ID "/proc/sys/kernel/random/boot_id"
#define LIMIT (256u << 10)

struct KernelMemo {
  GHashTable *answers; /* question: gint64 */
  char *title;         /* NULL: nobody keeps it */
  const char *path;
  bool added;
};

/* The file belongs to this kernel, and to this version. */
static char *title_new(void) {
  g_autofree char *boot = NULL;
  return g_file_get_contents(BOOT_ID, &boot, NULL, NULL) ? g_strdup_printf("checkpointd kernel types 1 %s", g_strstrip(boot)) : NULL;
}

static bool is_trusted(const struct stat *st) {
  return S_ISREG(st->st_mode) && st->st_uid == 0 && !(st->st_mode & (S_IWGRP | S_IWOTH)) && st->st_size > 0 && st->st_size <= LIMIT;
}

static char *read_file(const char *path) {
  struct stat st;
  int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
  bool ok = fd >= 0 && fstat(fd, &st) == 0 && is_trusted(&st);
  g_autofree char *text = ok ? g_malloc0((gsize)st.st_size + 1) : NULL;
  ok = ok && read(fd, text, (size_t)st.st_size) == (ssize_t)st.st_size && strlen(text) == (size_t)st.st_size;
  if (fd >= 0)
    (void)close(fd);
  return ok ? g_steal_pointer(&text) : NULL;
}

static void put(KernelMemo *m, const char *question, gint64 answer) {
  g_hash_table_insert(m->answers, g_strdup(question), g_memdup2(&answer, sizeof answer));
}

/* A line is an answer and its question; a file with any other line is none. */
static bool take_line(KernelMemo *m, const char *line) {
  char *end = NULL;
  gint64 answer = g_ascii_strtoll(line, &end, 10);
  if (end == line || *end != ' ' || !end[1])
    return false;
  put(m, end + 1, answer);
  return true;
}

static void load(KernelMemo *m) {
  g_autofree char *text = read_file(m->path);
  g_auto(GStrv) lines = text ? g_strsplit(text, "\n", 0) : NULL;
  bool ok = lines && lines[0] && strcmp(lines[0], m->title) == 0;
  for (guint i = 1; ok && lines[i] && *lines[i]; i++)
    ok = take_line(m, lines[i]);
  if (!ok)
    g_hash_table_remove_all(m->answers);
}

KernelMemo *kernel_memo_open(void) {
  KernelMemo *m = g_new0(KernelMemo, 1);
  const char *path = g_getenv("CHECKPOINTD_KERNEL_MEMO");
  m->answers = g_hash_table_new_full(g_str_hash, g_str_equal, g_free, g_free);
  m->path = path ? path : KERNEL_MEMO_PATH;
  m->title = geteuid() == 0 && *m->path ? title_new() : NULL;
  if (m->title)
    load(m);
  return m;
}

/* Whole, or not at all: another engine may be reading it, or writing its own. */
static void save(const KernelMemo *m) {
  g_autofree char *temporary = g_strdup_printf("%s.%d", m->path, (int)getpid());
  g_autoptr(GString) text = g_string_new(m->title);
  GHashTableIter iter;
  gpointer question, answer;
  g_string_append_c(text, '\n');
  g_hash_table_iter_init(&iter, m->answers);
  while (g_hash_table_iter_next(&iter, &question, &answer))
    g_string_append_printf(text, "%" G_GINT64_FORMAT " %s\n", *(gint64 *)answer, (const char *)question);
  int fd = open(temporary, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0)
    return;
  bool ok = write(fd, text->str, text->len) == (ssize_t)text->len;
  ok = close(fd) == 0 && ok;
  if (!ok || rename(temporary, m->path) < 0)
    (void)unlink(temporary);
}

void kernel_memo_close(KernelMemo *m) {
  if (!m)
    return;
  if (m->added && m->title)
    save(m);
  g_hash_table_unref(m->answers);
  g_free(m->title);
  g_free(m);
}

bool kernel_memo_is_empty(const KernelMemo *m) {
  return g_hash_table_size(m->answers) == 0;
}

bool kernel_memo_get(const KernelMemo *m, const char *question, gint64 *ret) {
  const gint64 *answer = g_hash_table_lookup(m->answers, question);
  if (answer)
    *ret = *answer;
  return answer;
}

void kernel_memo_put(KernelMemo *m, const char *question, gint64 answer) {
  put(m, question, answer);
  m->added = true;
}
