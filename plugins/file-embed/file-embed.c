/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Files that travel with the checkpoint. The engine keeps their content; what becomes of it at a restore is decided here: the
 * file is made again where it is missing, used where it is the same, and left alone where it is not, which is an error.
 * docs/plugins/file-embed.md */

#include <checkpoint-plugin.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define SUFFIX ".checkpoint-XXXXXX"

/* Tells people, and returns @answer. */
static int say(const struct checkpoint_host *host, int answer, const char *cure, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
static int say(const struct checkpoint_host *host, int answer, const char *cure, const char *format, ...) {
  char text[512];
  va_list ap;
  va_start(ap, format);
  (void)vsnprintf(text, sizeof text, format, ap);
  va_end(ap);
  host->explain(host, text, cure);
  return answer;
}

static int embed_dump(void *context, const struct checkpoint_object *o) {
  const struct checkpoint_host *host = context;
  if (!S_ISREG(o->mode))
    return say(host, CHECKPOINT_REFUSED, "take action=reopen or action=remap:PATH", "only regular files can be embedded");
  int r = host->content_keep(host);
  return r < 0 ? r : CHECKPOINT_REOPEN;
}

/* --- restore --- */

static int compare(const struct checkpoint_host *host, const char *path, int fd, const struct checkpoint_content *kept) {
  static const char cure[] = "the checkpoint has the content of the dump, but another file is there: move it away to have that of the "
                             "checkpoint, or take it with action=reopen check=none";
  struct stat st;
  uint64_t hash = 0;
  if (fstat(fd, &st) < 0)
    return -errno;
  if (!S_ISREG(st.st_mode))
    return say(host, -ESTALE, cure, "%s has changed since the dump: it is no regular file now", path);
  if ((uint64_t)st.st_size != kept->length)
    return say(host, -ESTALE, cure, "%s has changed since the dump: its size is %llu, it was %llu; its content is another", path,
        (unsigned long long)st.st_size, (unsigned long long)kept->length);
  int r = host->content_hash(host, fd, &hash);
  if (r < 0)
    return say(host, r, NULL, "%s cannot be read", path);
  return hash == kept->hash ? 0 : say(host, -ESTALE, cure, "%s has changed since the dump: its content is another", path);
}

static int fill(const struct checkpoint_host *host, int fd) {
  struct checkpoint_content kept = {.size = sizeof kept};
  int r = host->content_get(host, fd, &kept);
  if (r < 0)
    return r;
  const struct timespec times[2] = {
      {.tv_nsec = UTIME_OMIT}, {.tv_sec = (time_t)kept.mtime_sec, .tv_nsec = (long)kept.mtime_nsec}};
  if ((fchown(fd, kept.uid, kept.gid) < 0 && errno != EPERM) || fchmod(fd, kept.mode & 07777) < 0 || futimens(fd, times) < 0)
    return -errno;
  return 0;
}

/* Under another name first: nobody sees half a file, and one that has come up meanwhile is not touched. */
static int make(const struct checkpoint_host *host, const char *path) {
  char temporary[4096 + sizeof SUFFIX];
  if (snprintf(temporary, sizeof temporary, "%s" SUFFIX, path) >= (int)sizeof temporary)
    return -ENAMETOOLONG;
  int fd = mkostemp(temporary, O_CLOEXEC);
  if (fd < 0)
    return say(host, -errno, NULL, "Cannot make the embedded file %s again: %s", path, strerror(errno));
  int r = fill(host, fd);
  (void)close(fd);
  if (r < 0)
    (void)say(host, r, NULL, "Cannot set content, owner and mode of %s: %s", path, strerror(-r));
  else if (renameat2(AT_FDCWD, temporary, AT_FDCWD, path, RENAME_NOREPLACE) < 0)
    r = say(host, -errno, NULL, "Cannot put the embedded file %s into its place: %s", path, strerror(errno));
  if (r < 0)
    (void)unlink(temporary);
  return r;
}

static int embed_restore(void *context, const struct checkpoint_object *o, int *ret_fd, uint64_t *ret_offset) {
  const struct checkpoint_host *host = context;
  struct checkpoint_content kept = {.size = sizeof kept};
  if (!o->path || o->path[0] != '/')
    return -EBADMSG;
  int r = host->content_get(host, -1, &kept);
  if (r == -ENOENT)
    return say(host, r, NULL, "The content of %s is not in the checkpoint: action=embed must be said at the dump", o->path);
  if (r < 0)
    return r;
  int there = open(o->path, O_PATH | O_CLOEXEC);
  if (there < 0 && errno != ENOENT)
    return say(host, -errno, NULL, "Cannot look at %s: %s", o->path, strerror(errno));
  if (there < 0)
    r = make(host, o->path);
  else
    r = compare(host, o->path, there, &kept);
  if (there >= 0)
    (void)close(there);
  return r < 0 ? r : CHECKPOINT_REOPEN;
}

static int embed_init(const struct checkpoint_host *host, void **ret_context) {
  if (!CHECKPOINT_HAS(host, revision) || host->revision < 2)
    return -EPROTONOSUPPORT;
  *ret_context = (void *)host;
  return 0;
}

CHECKPOINT_PLUGIN = {
    CHECKPOINT_PLUGIN_HEADER("file-embed", "1", "Files travel with the checkpoint"),
    .flags = CHECKPOINT_PLUGIN_EXPLAINS | CHECKPOINT_PLUGIN_UNTRUSTED,
    .kinds = CHECKPOINT_KIND_FILE,
    .init = embed_init,
    .dump = embed_dump,
    .restore = embed_restore,
};
