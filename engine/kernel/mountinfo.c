/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "mountinfo.h"
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define DELETED "//deleted"
#ifndef MS_NOSYMFOLLOW
#define MS_NOSYMFOLLOW 256
#endif

typedef struct Word {
  const char *text;
  unsigned long flag;
} Word;

static const Word mount_words[] = {{"ro", MS_RDONLY}, {"nosuid", MS_NOSUID}, {"nodev", MS_NODEV}, {"noexec", MS_NOEXEC},
    {"noatime", MS_NOATIME}, {"nodiratime", MS_NODIRATIME}, {"relatime", MS_RELATIME}, {"nosymfollow", MS_NOSYMFOLLOW}, {NULL, 0}};
static const Word sb_words[] = {{"ro", MS_RDONLY}, {"sync", MS_SYNCHRONOUS}, {"dirsync", MS_DIRSYNC}, {"mand", MS_MANDLOCK},
    {"lazytime", MS_LAZYTIME}, {"rw", 0}, {NULL, 0}};

static void mount_clear(void *p) {
  MountInfo *m = p;
  g_free(m->root);
  g_free(m->mountpoint);
  g_free(m->fstype);
  g_free(m->source);
  g_free(m->options);
}

/* "\040" and its like. */
static char *unescape(const char *text) {
  char *out = g_malloc(strlen(text) + 1), *to = out;
  while (*text) {
    bool octal = text[0] == '\\' && text[1] >= '0' && text[1] <= '3' && g_ascii_isdigit(text[2]) && g_ascii_isdigit(text[3]);
    *to++ = octal ? (char)((text[1] - '0') * 64 + (text[2] - '0') * 8 + text[3] - '0') : *text;
    text += octal ? 4 : 1;
  }
  *to = '\0';
  return out;
}

/* Words of a list that are flags; the others into *ret_rest. */
static unsigned long take_flags(const char *list, const Word *words, char **ret_rest) {
  g_auto(GStrv) all = g_strsplit(list, ",", -1);
  g_autoptr(GString) rest = g_string_new(NULL);
  unsigned long flags = 0;
  for (char **word = all; *word; word++) {
    const Word *w = words;
    while (w->text && strcmp(w->text, *word) != 0)
      w++;
    flags |= w->flag;
    if (!w->text)
      g_string_append_printf(rest, "%s%s", rest->len ? "," : "", *word);
  }
  if (ret_rest)
    *ret_rest = g_string_free(g_steal_pointer(&rest), FALSE);
  return flags;
}

static int group_of(const char *field, const char *name) {
  return g_str_has_prefix(field, name) ? atoi(field + strlen(name)) : 0;
}

/* ID PARENT MAJOR:MINOR ROOT MOUNTPOINT OPTIONS [FIELD…] - TYPE SOURCE OPTIONS */
static bool parse_line(const char *line, MountInfo *m) {
  g_auto(GStrv) f = g_strsplit(line, " ", -1);
  unsigned n = g_strv_length(f), at = 6, maj, min;
  if (n < 10 || sscanf(f[2], "%u:%u", &maj, &min) != 2)
    return false;
  m->id = atoi(f[0]);
  m->parent = atoi(f[1]);
  m->dev = makedev(maj, min);
  for (; at < n && strcmp(f[at], "-") != 0; at++) {
    int shared = group_of(f[at], "shared:"), master = group_of(f[at], "master:");
    m->shared = shared ? shared : m->shared;
    m->master = master ? master : m->master;
    m->unbindable |= strcmp(f[at], "unbindable") == 0;
  }
  if (at + 3 >= n)
    return false;
  m->root = unescape(f[3]);
  m->deleted = g_str_has_suffix(m->root, DELETED);
  m->mountpoint = unescape(f[4]);
  m->flags = take_flags(f[5], mount_words, NULL);
  m->fstype = unescape(f[at + 1]);
  m->source = unescape(f[at + 2]);
  g_autofree char *options = unescape(f[at + 3]);
  m->sb_flags = take_flags(options, sb_words, &m->options);
  return true;
}

static GString *read_all(int fd) {
  g_autoptr(GString) text = g_string_new(NULL);
  char buffer[16384];
  ssize_t n;
  while ((n = read(fd, buffer, sizeof buffer)) > 0)
    g_string_append_len(text, buffer, n);
  return n < 0 ? NULL : g_steal_pointer(&text);
}

GArray *mountinfo_read(int fd, GError **error) {
  g_autoptr(GString) text = fd < 0 ? NULL : read_all(fd);
  if (!text) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read a list of mounts (mountinfo)");
    return NULL;
  }
  g_autoptr(GArray) mounts = g_array_new(FALSE, TRUE, sizeof(MountInfo));
  g_array_set_clear_func(mounts, mount_clear);
  g_auto(GStrv) lines = g_strsplit(text->str, "\n", -1);
  for (char **line = lines; *line && **line; line++) {
    MountInfo m = {0};
    if (!parse_line(*line, &m)) {
      mount_clear(&m);
      engine_fail(error, ENGINE_ERROR_CODE__FAILED, "A line of mountinfo cannot be understood: %s", *line);
      return NULL;
    }
    g_array_append_val(mounts, m);
  }
  return g_steal_pointer(&mounts);
}
