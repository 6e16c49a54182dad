/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "file-state.h"
#include "digest.h"
#include "internal.h"
#include <errno.h>
#include <fcntl.h>

#define PAGE 4096
#define BUFFER_PAGES 256

/* The last page is filled up with zeroes; so the size belongs to what is compared. */
bool file_state_hash(int local, guint64 *ret_hash, GError **error) {
  FdPath path = fd_path(local);
  _cleanup_fd_ int fd = open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  g_autofree guint8 *buffer = g_malloc(BUFFER_PAGES * PAGE);
  guint64 at = 0, sum = 0;
  ssize_t n = fd < 0 ? -1 : 1;
  while (n > 0) {
    gsize have = 0;
    while (have < BUFFER_PAGES * PAGE && (n = pread(fd, buffer + have, BUFFER_PAGES * PAGE - have, (off_t)(at + have))) > 0)
      have += (gsize)n;
    gsize pages = (have + PAGE - 1) / PAGE;
    memset(buffer + have, 0, pages * PAGE - have);
    sum += digest_of_pages(buffer, pages, at / PAGE);
    at += have;
  }
  *ret_hash = sum + at;
  return n == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot read a file to compare it");
}

CkptFileState *file_state_new(int local, const struct stat *st, unsigned checks, GError **error) {
  CkptFileState *f = MESSAGE_NEW(CkptFileState, ckpt_file_state__init);
  f->has_size = f->has_mtime_sec = f->has_mtime_nsec = f->has_mode = true;
  f->size = (guint64)st->st_size;
  f->mtime_sec = (guint64)st->st_mtim.tv_sec;
  f->mtime_nsec = (guint32)st->st_mtim.tv_nsec;
  f->mode = st->st_mode;
  if (checks & EXTERNAL_CHECK_BUILD_ID && S_ISREG(st->st_mode)) {
    guint32 *words = NULL;
    f->build_id.len = build_id_read(local, &words) * sizeof *words;
    f->build_id.data = (uint8_t *)words;
    f->has_build_id = f->build_id.len > 0;
  }
  f->has_content = checks & EXTERNAL_CHECK_CONTENT && S_ISREG(st->st_mode);
  if (!f->has_content || file_state_hash(local, &f->content, error))
    return f;
  ckpt_file_state__free_unpacked(f, NULL);
  return NULL;
}

static void differs(GString *list, const char *format, ...) G_GNUC_PRINTF(2, 3);
static void differs(GString *list, const char *format, ...) {
  va_list ap;
  va_start(ap, format);
  g_string_append(list, list->len ? "; " : "");
  g_string_append_vprintf(list, format, ap);
  va_end(ap);
}

static void compare_time(const CkptFileState *was, const struct stat *st, GString *list) {
  if (was->mtime_sec == (guint64)st->st_mtim.tv_sec && was->mtime_nsec == (guint32)st->st_mtim.tv_nsec)
    return;
  g_autoptr(GDateTime) before = g_date_time_new_from_unix_local((gint64)was->mtime_sec);
  g_autoptr(GDateTime) now = g_date_time_new_from_unix_local(st->st_mtim.tv_sec);
  g_autofree char *a = before ? g_date_time_format(before, "%F %T") : NULL;
  g_autofree char *b = now ? g_date_time_format(now, "%F %T") : NULL;
  differs(list, "it was modified %s, before that %s", b ? b : "at another time", a ? a : "at another time");
}

static void compare_build_id(const CkptFileState *was, int fd, GString *list) {
  g_autofree guint32 *words = NULL;
  size_t n = build_id_read(fd, &words) * sizeof *words;
  if (n != was->build_id.len || (n && memcmp(words, was->build_id.data, n) != 0))
    differs(list, "its build id is another");
}

/* What the dump has not kept cannot be compared. */
static unsigned missing(const CkptFileState *was, unsigned checks) {
  unsigned kept = (was->has_size ? EXTERNAL_CHECK_SIZE : 0) | (was->has_mtime_sec ? EXTERNAL_CHECK_MTIME : 0) |
                  (was->has_build_id ? EXTERNAL_CHECK_BUILD_ID : 0) | (was->has_content ? EXTERNAL_CHECK_CONTENT : 0);
  return checks & ~kept & ~(unsigned)EXTERNAL_CHECK_BUILD_ID; /* most files have none */
}

bool file_state_check(
    const CkptFileState *was, const char *path, int fd, const struct stat *st, unsigned checks, GError **error) {
  unsigned unknown = missing(was, checks);
  guint64 hash = 0;
  if (unknown) {
    g_autofree char *text = external_checks_text(unknown);
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
        "%s cannot be compared by %s: a rule at the dump must ask for that (check=%s)", path, text, text);
  }
  g_autoptr(GString) list = g_string_new(NULL);
  if (checks & EXTERNAL_CHECK_SIZE && S_ISREG(st->st_mode) && was->size != (guint64)st->st_size)
    differs(list, "its size is %lld, it was %" G_GUINT64_FORMAT, (long long)st->st_size, was->size);
  if (checks & EXTERNAL_CHECK_MTIME)
    compare_time(was, st, list);
  if (checks & EXTERNAL_CHECK_BUILD_ID && was->has_build_id)
    compare_build_id(was, fd, list);
  if (checks & EXTERNAL_CHECK_CONTENT && was->has_content) {
    if (!file_state_hash(fd, &hash, error))
      return false;
    if (hash != was->content)
      differs(list, "its content is another");
  }
  return !list->len || engine_fail(error, ENGINE_ERROR_CODE__FILE_CHANGED,
                           "%s has changed since the dump: %s (the option external with file:path=%s check=none takes it as "
                           "it is)", path, list->str, path);
}
