/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Regular files, directories, the devices without state (null, zero, full, random, urandom), and O_PATH descriptors of
 * anything that has a path. They are opened again by that path; so at the dump it must still lead to the same inode.
 * A file whose last name is gone becomes a ghost (ghost.c). */

#include "external.h"
#include "internal.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

#define DELETED " (deleted)"

static bool is_plain_device(const struct stat *st) {
  if (!S_ISCHR(st->st_mode) || major(st->st_rdev) != 1)
    return false;
  switch (minor(st->st_rdev)) {
  case 3: /* null */
  case 5: /* zero */
  case 7: /* full */
  case 8: /* random */
  case 9: /* urandom */
    return true;
  default:
    return false;
  }
}

bool reg_claims(const FileProbe *probe) {
  if (probe->elsewhere)
    return true;
  if (probe->link[0] != '/' || probe->st.st_dev == kernel_devs()->shmem)
    return false;
  if (probe->flags & O_PATH)
    return true;
  return S_ISREG(probe->st.st_mode) || S_ISDIR(probe->st.st_mode) || is_plain_device(&probe->st);
}

/* /proc/<number>/…: is made anew with its process, after the files are. */
static bool is_proc_of_task(const FileProbe *probe) {
  struct statfs fs;
  if (major(probe->st.st_dev) != 0 || !g_str_has_prefix(probe->link, "/proc/") || !g_ascii_isdigit(probe->link[6]))
    return false;
  return fstatfs(probe->local, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

/* Why a file cannot be opened again by its path; zeroed where it can. */
typedef struct RegProblem {
  char *what;
  const char *reason, *cure;
} RegProblem;

static RegProblem path_problem(const FileProbe *probe) {
  RegProblem p = {.what = g_strdup_printf("%s %s", S_ISDIR(probe->st.st_mode) ? "directory" : "file", probe->link)};
  if (S_ISDIR(probe->st.st_mode)) {
    p.reason = "the directory was deleted or its path leads elsewhere";
    p.cure = "let the program leave the directory (chdir, close)";
  } else if (S_ISREG(probe->st.st_mode) && g_str_has_suffix(probe->link, DELETED)) {
    p.reason = "the name it was opened by is gone and its other names are not known";
    p.cure = "let the program open it again by a name that exists";
  } else {
    p.reason = "its path leads to another file now, or to none";
    p.cure = "remove what covers it (another mount, another file), or let the program open it again";
  }
  return p;
}

static RegProblem find_problem(const FileProbe *probe) {
  if (!probe->path_checked && !(S_ISREG(probe->st.st_mode) && probe->st.st_nlink == 0))
    return path_problem(probe);
  if (probe->path_checked && is_proc_of_task(probe))
    return (RegProblem){.what = g_strdup_printf("file %s", probe->link),
        .reason = "files of /proc that belong to a process cannot be brought back yet",
        .cure = "close it before the dump"};
  return (RegProblem){0};
}

static RegFileEntry *reg_entry_new(const FileProbe *probe, guint32 id) {
  RegFileEntry *reg = MESSAGE_NEW(RegFileEntry, reg_file_entry__init);
  reg->id = id;
  reg->flags = (guint32)probe->flags;
  reg->pos = probe->fd < 0 ? 0 : (guint64)probe->pos;
  reg->fown = collector_fown(probe);
  reg->has_mode = true;
  reg->mode = probe->st.st_mode;
  if (probe->fd < 0 && S_ISREG(probe->st.st_mode)) {
    reg->has_size = true;
    reg->size = (guint64)probe->st.st_size;
    reg->n_build_id = build_id_read(probe->local, &reg->build_id);
  }
  return reg;
}

static RegFileEntry *collect_sound(Collector *c, const FileProbe *probe, guint32 id, GError **error) {
  bool there = probe->path_checked;
  if (!there && !ghost_collect(c, probe, id, error))
    return NULL;
  RegFileEntry *reg = reg_entry_new(probe, id);
  size_t length = strlen(probe->link);
  if (!there && g_str_has_suffix(probe->link, DELETED))
    length -= strlen(DELETED);
  reg->name = g_strndup(probe->link, length);
  if (!there) {
    reg->has_size = true;
    reg->size = (guint64)probe->st.st_size;
  }
  return reg;
}

RegFileEntry *reg_collect_entry(Collector *c, const FileProbe *probe, guint32 id, GError **error) {
  RegProblem problem = find_problem(probe);
  if (!problem.what)
    return collect_sound(c, probe, id, error);
  collector_block(c, probe, problem.what, problem.reason, problem.cure);
  g_free(problem.what);
  return NULL;
}

/* Somebody else has the file: an entry that says so. A mapping needs one with a path. */
static void collect_elsewhere(const FileProbe *probe, FileEntry *entry) {
  if (probe->fd >= 0) {
    entry->type = FD_TYPES__EXT;
    entry->ext = MESSAGE_NEW(ExtFileEntry, ext_file_entry__init);
    entry->ext->id = entry->id;
    entry->ext->fown = collector_fown(probe);
    return;
  }
  entry->reg = reg_entry_new(probe, entry->id);
  entry->reg->name = g_strdup(probe->link);
  entry->reg->has_ext = entry->reg->ext = true;
}

static bool reg_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  if (probe->elsewhere) {
    collect_elsewhere(probe, entry);
    return true;
  }
  RegProblem problem = find_problem(probe);
  g_autofree char *what = problem.what;
  ExternalObject o = external_of_probe(EXTERNAL_FILE, probe, entry->id);
  o.optional = !what;
  o.what = what ? what : "file";
  o.reason = problem.reason;
  o.cure = problem.cure;
  g_auto(ExternalClaim) claim = {0};
  if (!collector_external(c, &o, &claim, error))
    return false;
  if (claim.action == EXTERNAL_PLUGIN || claim.action == EXTERNAL_INHERIT)
    collect_elsewhere(probe, entry);
  else if (!what)
    entry->reg = collect_sound(c, probe, entry->id, error);
  return what || entry->reg || entry->ext;
}

/* --- restore --- */

static bool check_build_id(const RegFileEntry *reg, int fd, GError **error) {
  g_autofree guint32 *words = NULL;
  if (!reg->n_build_id)
    return true;
  size_t n = build_id_read(fd, &words);
  if (n == reg->n_build_id && memcmp(words, reg->build_id, n * sizeof *words) == 0)
    return true;
  return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
      "File %s is of another build than at the dump (its build id differs)", reg->name);
}

static bool check_file(const RegFileEntry *reg, int fd, GError **error) {
  struct stat st;
  if (fstat(fd, &st) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat %s", reg->name);
  if (reg->has_mode && (st.st_mode & S_IFMT) != (reg->mode & S_IFMT))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "%s is a file of another type now (mode 0%o, was 0%o)", reg->name, st.st_mode, reg->mode);
  if (!reg->has_mode && !S_ISREG(st.st_mode) && !S_ISDIR(st.st_mode) && !is_plain_device(&st))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "%s is no regular file now", reg->name);
  if (reg->has_size && S_ISREG(st.st_mode) && (guint64)st.st_size != reg->size)
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "File %s changed size since the dump (was %" G_GUINT64_FORMAT ", is %lld)", reg->name, reg->size,
        (long long)st.st_size);
  return true;
}

/* O_NONBLOCK keeps the open itself from hanging on a FIFO that lies there now; O_NOCTTY from taking a terminal. What
 * would create or cut a file is never in the flags the kernel reports, and is taken out of those of an image. */
static int open_flags(guint32 flags) {
  int open = (int)flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_ASYNC);
  if ((open & O_TMPFILE) == O_TMPFILE)
    open &= ~O_TMPFILE;
  open |= O_CLOEXEC;
  return open & O_PATH ? open : open | O_NOCTTY | O_NONBLOCK;
}

static int open_path(const RegFileEntry *reg, guint32 flags, GError **error) {
  if (reg->name[0] != '/') {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s is no absolute path", reg->name);
    return -1;
  }
  _cleanup_fd_ int fd = open(reg->name, open_flags(flags));
  if (fd < 0) {
    engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "Cannot open %s", reg->name);
    return -1;
  }
  if (!check_file(reg, fd, error) || !check_build_id(reg, fd, error))
    return -1;
  return fd_take(&fd);
}

int restorer_open_reg(Restorer *r, const RegFileEntry *reg, int flags, GError **error) {
  guint32 ghost_id = 0;
  if (!ghost_find(r, reg->id, &ghost_id, error))
    return -1;
  if (!ghost_id)
    return open_path(reg, (guint32)flags, error);
  _cleanup_fd_ int ghost = ghost_open(r, reg, ghost_id, error);
  if (ghost < 0)
    return -1;
  FdPath path = fd_path(ghost);
  int fd = open(path.text, open_flags((guint32)flags));
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open the deleted file %s", reg->name);
  return fd;
}

/* What open(2) did not take. */
static bool reg_finish(const RegFileEntry *reg, int fd, GError **error) {
  if (reg->flags & O_PATH)
    return true;
  if (!restorer_set_flags(fd, reg->flags, error))
    return false;
  if (reg->pos && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno,
        "Cannot set the position %" G_GUINT64_FORMAT " of %s", reg->pos, reg->name);
  return true;
}

static int reg_open(Restorer *r, const FileEntry *entry, GError **error) {
  const RegFileEntry *reg = entry->reg;
  if (!reg) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no reg_file_entry");
    return -1;
  }
  _cleanup_fd_ int fd = restorer_open_reg(r, reg, (int)reg->flags, error);
  return fd >= 0 && reg_finish(reg, fd, error) ? fd_take(&fd) : -1;
}

static const FownEntry *reg_fown(const FileEntry *entry) {
  return entry->reg ? entry->reg->fown : NULL;
}

const ObjectOps reg_ops = {
    .name = "file",
    .type = FD_TYPES__REG,
    .claims = reg_claims,
    .collect = reg_collect,
    .open = reg_open,
    .fown = reg_fown,
};
