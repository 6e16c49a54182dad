/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Regular files, directories, the devices without state (null, zero, full, random, urandom), and O_PATH descriptors of
 * anything that has a path. They are opened again by that path; so at the dump it must still lead to the same inode.
 * A file whose last name is gone becomes a ghost (ghost.c). */

#include "external.h"
#include "file-state.h"
#include "internal.h"
#include "proc-file.h"
#include "reg-check.h"
#include "rights.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <stdio.h>
#include <string.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define DELETED " (deleted)"

static bool is_secret_memory(const FileProbe *probe) {
  struct statfs fs;
  return strcmp(probe->link, "/secretmem (deleted)") == 0 && fstatfs(probe->local, &fs) == 0 && fs.f_type == SECRETMEM_MAGIC;
}

bool reg_claims(const FileProbe *probe) {
  if (probe->elsewhere)
    return true;
  if (probe->link[0] != '/' || probe->st.st_dev == kernel_devs()->shmem || is_secret_memory(probe))
    return false;
  if (probe->flags & O_PATH)
    return true;
  return S_ISREG(probe->st.st_mode) || S_ISDIR(probe->st.st_mode) || reg_is_plain_device(&probe->st);
}

/* Why a file cannot be brought back; zeroed where it can. */
typedef struct RegProblem {
  char *what;
  const char *reason, *cure;
  char *own_reason; /* instead of reason */
} RegProblem;

static void problem_clear(RegProblem *p) {
  g_free(p->what);
  g_free(p->own_reason);
}
G_DEFINE_AUTO_CLEANUP_CLEAR_FUNC(RegProblem, problem_clear)

static const char *kind_of(const FileProbe *probe) {
  return S_ISDIR(probe->st.st_mode) ? "directory" : S_ISFIFO(probe->st.st_mode) ? "FIFO" : "file";
}

/* /proc/self/mountinfo: the first number of each line (proc(5)). */
static bool is_mounted_here(guint64 mnt_id) {
  g_autofree char *text = NULL;
  if (!mnt_id || !g_file_get_contents("/proc/self/mountinfo", &text, NULL, NULL))
    return true;
  for (const char *line = text; line && *line; line = strchr(line, '\n')) {
    line += *line == '\n';
    if (*line && g_ascii_strtoull(line, NULL, 10) == mnt_id)
      return true;
  }
  return false;
}

static bool has_lost_name(const FileProbe *probe) {
  return !probe->path_checked && !S_ISDIR(probe->st.st_mode) && probe->st.st_nlink > 0 && g_str_has_suffix(probe->link, DELETED);
}

static RegProblem path_problem(const FileProbe *probe) {
  RegProblem p = {.what = g_strdup_printf("%s %s", kind_of(probe), probe->link)};
  if (strcmp(probe->link, LONG_PATH) == 0) {
    p.reason = "its path is longer than the 4095 bytes that the kernel can tell";
    p.cure = "let the program open it by a shorter path, or close it before the dump";
  } else if (!probe->mount && !is_mounted_here(probe->mnt_id)) {
    p.reason = "its file system is not mounted here: it was unmounted while it was in use, or is mounted in another mount namespace only";
    p.cure = "close it before the dump, or mount the file system where it was and let the program open it again";
  } else if (S_ISDIR(probe->st.st_mode)) {
    p.reason = "its path leads to another directory now, or to none";
    p.cure = "remove what covers it (another mount), or let the program leave the directory (chdir, close)";
  } else {
    p.reason = "its path leads to another file now, or to none";
    p.cure = "remove what covers it (another mount, another file), or let the program open it again";
  }
  return p;
}

static RegProblem proc_problem(const FileProbe *probe, ProcOwner owner) {
  RegProblem p = {0};
  if (owner == PROC_OUTSIDE) {
    p.reason = "it is of a process that is not in the tree";
    p.cure = "close it before the dump, or take it from whatever process has that number then: the option external with "
             "file:path=PATH action=reopen";
  } else if (owner == PROC_PART) {
    p.reason = "the thread, descriptor or mapping that it is about has ended";
    p.cure = "close it before the dump";
  } else if (probe->fd < 0) {
    p.reason = "a process cannot be in it before the one it belongs to exists";
    p.cure = "let the program leave the directory (chdir)";
  }
  if (p.reason)
    p.what = g_strdup_printf("%s %s", kind_of(probe), probe->link);
  return p;
}

/* The kernel does not show whether a directory has such a watch, but it makes the watcher the owner of the descriptor. */
static bool may_have_dnotify(const FileProbe *probe) {
  FileProbe asked = *probe;
  if (!S_ISDIR(probe->st.st_mode) || probe->flags & O_PATH || probe->fd < 0)
    return false;
  if (!asked.owner.known)
    probe_owner(&asked);
  return asked.owner.pid > 0;
}

static RegProblem find_problem(const Collector *c, const FileProbe *probe) {
  pid_t pid;
  ProcOwner owner = proc_file_owner(c, probe, &pid);
  if (owner != PROC_NONE)
    return proc_problem(probe, owner);
  bool deleted = !probe->path_checked && probe->st.st_nlink == 0 && strcmp(probe->link, LONG_PATH) != 0;
  if (!probe->path_checked && !deleted && !has_lost_name(probe))
    return path_problem(probe);
  if (may_have_dnotify(probe))
    return (RegProblem){.what = g_strdup_printf("directory %s", probe->link),
        .reason = "it has an owner (F_SETOWN), so there may be a watch on it (F_NOTIFY), which the kernel does not show",
        .cure = "let the program use inotify, or close it; where there is no watch: the option external with file:path=PATH "
                "action=reopen"};
  if (probe->mount && (deleted || has_lost_name(probe)))
    return (RegProblem){.what = g_strdup_printf("%s %s", kind_of(probe), probe->link),
        .reason = "it was deleted in a mount namespace of the tree's own, where such files cannot be made again yet",
        .cure = "close it before the dump"};
  char *large = deleted ? ghost_too_large(c, probe) : NULL;
  if (large)
    return (RegProblem){.what = g_strdup_printf("file %s", probe->link), .own_reason = large, .reason = large,
        .cure = "raise ghost-limit (0: no limit), or let the program close the file"};
  return (RegProblem){0};
}

static RegFileEntry *reg_entry_new(const FileProbe *probe, guint32 id) {
  RegFileEntry *reg = MESSAGE_NEW(RegFileEntry, reg_file_entry__init);
  reg->id = id;
  reg->flags = (guint32)probe->flags;
  reg->pos = probe->fd < 0 ? 0 : (guint64)probe->pos;
  reg->fown = collector_fown(probe);
  reg->has_mnt_id = probe->mount != 0;
  reg->mnt_id = probe->mount ? (gint32)probe->mount : -1;
  reg->has_mode = true;
  reg->mode = probe->st.st_mode;
  if (probe->fd < 0 && S_ISREG(probe->st.st_mode)) {
    reg->has_size = true;
    reg->size = (guint64)probe->st.st_size;
    reg->n_build_id = build_id_read(probe->local, &reg->build_id);
  }
  return reg;
}

/* Without what the kernel appends to the path of an inode whose name is gone. */
static char *path_of(const FileProbe *probe) {
  size_t length = strlen(probe->link);
  if (!probe->path_checked && g_str_has_suffix(probe->link, DELETED))
    length -= strlen(DELETED);
  return g_strndup(probe->link, length);
}

/* *@ret stays NULL where the dump was blocked. */
static bool collect_sound(Collector *c, const FileProbe *probe, guint32 id, RegFileEntry **ret, GError **error) {
  g_autofree char *path = path_of(probe);
  pid_t pid;
  ProcOwner owner = proc_file_owner(c, probe, &pid);
  if (owner == PROC_DEAD) {
    proc_file_collect_dead(c, id, pid);
  } else if (owner == PROC_NONE && has_lost_name(probe)) {
    if (!link_collect(c, probe, id, path)) {
      g_autofree char *what = g_strdup_printf("%s %s", kind_of(probe), probe->link);
      collector_block(c, probe, what, "the name it was opened by is gone and its other names are not known",
          "the option link-remap gives it a name for the checkpoint; or let the program open it again by a name that exists");
      return true;
    }
  } else if (owner == PROC_NONE && !probe->path_checked && !ghost_collect(c, probe, id, error)) {
    return false;
  }
  RegFileEntry *reg = *ret = reg_entry_new(probe, id);
  reg->name = g_steal_pointer(&path);
  if (owner == PROC_NONE && !probe->path_checked && S_ISREG(probe->st.st_mode)) {
    reg->has_size = true;
    reg->size = (guint64)probe->st.st_size;
  }
  return true;
}

RegFileEntry *reg_collect_entry(Collector *c, const FileProbe *probe, guint32 id, GError **error) {
  g_auto(RegProblem) problem = find_problem(c, probe);
  RegFileEntry *reg = NULL;
  if (problem.what)
    collector_block(c, probe, problem.what, problem.reason, problem.cure);
  else
    (void)collect_sound(c, probe, id, &reg, error);
  return reg;
}

void reg_collect_path(const FileProbe *probe, FileEntry *entry) {
  entry->type = FD_TYPES__REG;
  entry->reg = reg_entry_new(probe, entry->id);
  entry->reg->name = path_of(probe);
}

/* Somebody else has the file. A mapping needs an entry with a path, and what the restore's caller gives may be mapped. */
static void collect_elsewhere(const FileProbe *probe, ExternalAction action, FileEntry *entry) {
  if (probe->fd >= 0 && action == EXTERNAL_PLUGIN) {
    entry->type = FD_TYPES__EXT;
    entry->ext = MESSAGE_NEW(ExtFileEntry, ext_file_entry__init);
    entry->ext->id = entry->id;
    entry->ext->fown = collector_fown(probe);
    return;
  }
  reg_collect_path(probe, entry);
  entry->reg->has_ext = entry->reg->ext = true;
}

static bool collect_embedded(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  CkptExternal *record = checkpoint_find_external(collector_checkpoint(c), entry->id);
  reg_collect_path(probe, entry);
  entry->reg->has_size = false; /* the content that is there is compared */
  entry->reg->n_build_id = 0;
  record->file->has_ghost_id = true;
  return ghost_embed(c, probe, &record->file->ghost_id, error);
}

static bool collect_by_claim(
    Collector *c, const FileProbe *probe, ExternalAction action, bool sound, FileEntry *entry, GError **error) {
  switch (action) {
  case EXTERNAL_PLUGIN:
  case EXTERNAL_INHERIT:
    collect_elsewhere(probe, action, entry);
    return true;
  case EXTERNAL_EMBED:
    return collect_embedded(c, probe, entry, error);
  case EXTERNAL_REMAP:
    reg_collect_path(probe, entry);
    return true;
  default:
    break;
  }
  if (action == EXTERNAL_REOPEN && (!sound || has_lost_name(probe)))
    reg_collect_path(probe, entry); /* whatever lies there */
  else if (sound)
    return collect_sound(c, probe, entry->id, &entry->reg, error);
  return true;
}

static bool reg_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  if (probe->elsewhere) {
    collect_elsewhere(probe, EXTERNAL_PLUGIN, entry);
    return true;
  }
  g_auto(RegProblem) problem = find_problem(c, probe);
  const char *what = problem.what;
  if (!what && !collector_asks_about_ordinary(c))
    return collect_sound(c, probe, entry->id, &entry->reg, error);
  g_autofree char *file = what ? NULL : g_strdup_printf("file %s", probe->link);
  g_autofree char *path = path_of(probe);
  ExternalObject o = external_of_probe(EXTERNAL_FILE, probe, entry->id);
  o.path = path;
  o.optional = !what;
  o.what = what ? what : file;
  o.reason = problem.reason;
  o.cure = problem.cure;
  g_auto(ExternalClaim) claim = {0};
  guint findings = (guint)job_n_findings(collector_job(c));
  if (!collector_external(c, &o, &claim, error))
    return false;
  if (job_n_findings(collector_job(c)) > findings)
    return true;
  return collect_by_claim(c, probe, claim.action, !what, entry, error);
}

/* --- restore --- */

/* O_NONBLOCK keeps the open itself from hanging on a FIFO that lies there now; O_NOCTTY from taking a terminal. What
 * would create or cut a file is never in the flags the kernel reports, and is taken out of those of an image. */
int reg_open_flags(guint32 flags) {
  int open = (int)flags & ~(O_CREAT | O_EXCL | O_TRUNC | O_ASYNC);
  if ((open & O_TMPFILE) == O_TMPFILE)
    open &= ~O_TMPFILE;
  open |= O_CLOEXEC;
  return open & O_PATH ? open : open | O_NOCTTY | O_NONBLOCK;
}

/* A directory that a task is in, and that nobody has open. To be there takes no right to read it, nor to reach it: the task may
 * have come down from a place that is closed to it. And it gives none. */
static bool is_place(Restorer *r, const RegFileEntry *reg) {
  return reg->has_mode && S_ISDIR(reg->mode) && !restorer_holder_of(r, reg->id);
}

#define RIGHTS_CURE                                                                                                    \
  "have its owner let you open it, give an open descriptor of it with the option inherit, or have root restore the checkpoint " \
  "(checkpoint restore --owner)"

static int fail_open(const Job *job, const char *path, int reason, GError **error) {
  const char *hint = "";
  if (reason == ENOENT || reason == ENOTDIR)
    hint = " (put it back, or say what to take instead: the option external with file:path=PATH action=remap:OTHER)";
  else if (reason == EROFS)
    hint = " (it was open for writing, and its file system is mounted read-only now)";
  else if (reason == ETXTBSY)
    hint = " (it was open for writing, and somebody runs it as a program now)";
  else if (reason == EACCES && caller_is_limited(job))
    hint = " (files are opened with your rights, not with those of whoever opened them first: " RIGHTS_CURE ")";
  g_autofree char *why = g_strdup_printf("%s%s", g_strerror(reason), hint);
  engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "Cannot open %s: %s", path, why);
  return -1;
}

static bool waits_for_process(Restorer *r, const RegFileEntry *reg) {
  pid_t pid = proc_file_pid(reg->name);
  return pid && checkpoint_find_task(restorer_checkpoint(r), pid) && !proc_file_is_dead(r, reg->id);
}

/* No user can put anything else there. It is opened before its process has its own credentials. */
static int open_of_process(Restorer *r, const RegFileEntry *reg, guint32 flags, GError **error) {
  struct statfs fs;
  _cleanup_fd_ int fd = open(reg->name, reg_open_flags(flags));
  if (fd < 0)
    return fail_open(restorer_job(r), reg->name, errno, error);
  if (fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC)
    return fd_take(&fd);
  engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "%s is no file of /proc", reg->name);
  return -1;
}

static int open_by_name(Restorer *r, const RegFileEntry *reg, const char *path, guint32 flags, GError **error) {
  if (path[0] != '/') {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s is no absolute path", path);
    return -1;
  }
  if (path == reg->name && waits_for_process(r, reg))
    return open_of_process(r, reg, flags, error);
  if (is_place(r, reg)) {
    int fd = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return fd >= 0 ? fd : fail_open(restorer_job(r), path, errno, error);
  }
  CallerRights rights;
  int kept = reg->has_mode && S_ISREG(reg->mode) ? (int)flags & O_ASYNC : 0; /* only open(2) sets it there, and means nothing */
  int fd = caller_rights_begin(restorer_job(r), &rights, error) ? open(path, reg_open_flags(flags) | kept) : -2, reason = errno;
  caller_rights_end(&rights);
  return fd == -1 ? fail_open(restorer_job(r), path, reason, error) : fd;
}

/* How far a file is when it is open. */
typedef struct Opening {
  bool may_wait; /* the rest may be done later */
  bool is_done;  /* there is nothing left to do */
} Opening;

static int open_path(Restorer *r, const RegFileEntry *reg, const CkptExternal *record, const ExternalAnswer *answer,
    guint32 flags, Opening *opening, GError **error) {
  const char *path = answer->action == EXTERNAL_REMAP && answer->value ? answer->value : reg->name;
  _cleanup_fd_ int fd = open_by_name(r, reg, path, flags, error);
  if (fd < 0)
    return -1;
  if (opening->may_wait && !record && answer->action == EXTERNAL_NOBODY && !answer->has_checks && reg_checker_take(restorer_checker(r), reg, fd)) {
    opening->is_done = true;
    return fd_take(&fd);
  }
  if (!reg_check_opened(reg, record, answer, fd, error)) {
    if (answer->action == EXTERNAL_REMAP)
      g_prefix_error(error, "%s, in place of %s: ", path, reg->name);
    return -1;
  }
  return fd_take(&fd);
}

static bool ask_about(Restorer *r, const RegFileEntry *reg, const CkptExternal *record, ExternalAnswer *ret_answer,
    GError **error) {
  mode_t type = reg->has_mode ? reg->mode & S_IFMT : S_IFREG;
  bool device = type == S_IFCHR || type == S_IFBLK;
  ExternalObject o = {.kind = device && record ? EXTERNAL_DEVICE : EXTERNAL_FILE, .file_id = reg->id, .path = reg->name};
  o.optional = !record && !(reg->has_ext && reg->ext);
  o.flags = (int)reg->flags;
  return restorer_external(r, &o, ret_answer, error);
}

static int open_there(Restorer *r, const RegFileEntry *reg, int flags, Opening *opening, GError **error) {
  const CkptExternal *record = checkpoint_find_external(restorer_checkpoint(r), reg->id);
  g_auto(ExternalAnswer) answer = {.fd = -1};
  bool ghost;
  if (!ghost_find(r, reg->id, &ghost, error))
    return -1;
  if (ghost && !record)
    return ghost_open(r, reg, flags, error);
  if (proc_file_pid(reg->name) && proc_file_is_dead(r, reg->id))
    return proc_file_open_dead(r, reg, error);
  if (!ask_about(r, reg, record, &answer, error))
    return -1;
  if (answer.fd >= 0) {
    opening->is_done = true; /* it is somebody else's, and stays as it is */
    return fd_take(&answer.fd);
  }
  if (reg->has_ext && reg->ext && answer.action != EXTERNAL_REOPEN && answer.action != EXTERNAL_REMAP) {
    engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "The file %s is external, and nobody says where it is (--inherit-fd fd[N]:KEY, or a rule: external)", reg->name);
    return -1;
  }
  return ghost && answer.action != EXTERNAL_REMAP ? ghost_open(r, reg, flags, error)
                                                  : open_path(r, reg, record, &answer, (guint32)flags, opening, error);
}

/* Where it is mounted. */
static int open_reg(Restorer *r, const RegFileEntry *reg, int flags, Opening *opening, GError **error) {
  NsVisit visit;
  if (!restorer_visit_mount(r, reg->has_mnt_id ? reg->mnt_id : -1, &visit, error))
    return -1;
  int fd = open_there(r, reg, flags, opening, error);
  ns_visit_end(&visit);
  return fd;
}

int restorer_open_reg(Restorer *r, const RegFileEntry *reg, int flags, GError **error) {
  Opening opening = {0};
  _cleanup_fd_ int fd = open_reg(r, reg, flags, &opening, error);
  return fd >= 0 && (opening.is_done || reg_check_untrusted(r, reg, fd, error)) ? fd_take(&fd) : -1;
}

static int reg_open(Restorer *r, const FileEntry *entry, GError **error) {
  const RegFileEntry *reg = entry->reg;
  if (!reg) {
    engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "The entry has no reg_file_entry");
    return -1;
  }
  Opening opening = {.may_wait = reg_is_ordinary(reg)};
  _cleanup_fd_ int fd = open_reg(r, reg, (int)reg->flags, &opening, error);
  return fd >= 0 && (opening.is_done || (reg_check_untrusted(r, reg, fd, error) && reg_finish(reg, fd, error))) ? fd_take(&fd) : -1;
}

/* Until its process exists. */
static int open_place_holder(GError **error) {
  int fd = open("/", O_PATH | O_CLOEXEC);
  if (fd < 0)
    engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot open /");
  return fd;
}

static bool reg_is_late(const FileEntry *entry) {
  return entry->reg && proc_file_pid(entry->reg->name) > 0;
}

static int reg_open_first(Restorer *r, const FileEntry *entry, GError **error) {
  return entry->reg && waits_for_process(r, entry->reg) ? open_place_holder(error) : reg_open(r, entry, error);
}

/* Files of processes that are not in the tree, or gone, could be opened at once. */
static int reg_open_late(Restorer *r, const FileEntry *entry, GError **error) {
  return waits_for_process(r, entry->reg) ? reg_open(r, entry, error)
                                          : fcntl(restorer_fd_of(r, entry->id, error), F_DUPFD_CLOEXEC, 0);
}

static const FownEntry *reg_fown(const FileEntry *entry) {
  return entry->reg ? entry->reg->fown : NULL;
}

static void reg_end(Collector *c, bool killed) {
  link_collect_end(c);
}

/* --- what its own user could not open again --- */

/* Under the rights of whose restore it would be. */
static bool is_closed_to_us(const RegFileEntry *reg) {
  guint access = reg->flags & O_ACCMODE;
  int mode = access == O_RDONLY ? R_OK : access == O_WRONLY ? W_OK : R_OK | W_OK;
  return !(reg->flags & O_PATH) && reg->name[0] == '/' && !proc_file_pid(reg->name) &&
         syscall(SYS_faccessat2, AT_FDCWD, reg->name, mode, AT_EACCESS) < 0 && errno == EACCES;
}

static GPtrArray *find_closed(Collector *c) {
  const Checkpoint *checkpoint = collector_checkpoint(c);
  GPtrArray *closed = g_ptr_array_new();
  for (guint i = 0; i < checkpoint->files->len; i++) {
    const FileEntry *e = checkpoint->files->pdata[i];
    if (e->type == FD_TYPES__REG && e->reg && is_closed_to_us(e->reg))
      g_ptr_array_add(closed, e->reg);
  }
  return closed;
}

/* A descriptor may come from somebody with more rights: the dump says so, while the program still runs. */
static bool reg_collect_finish(Collector *c, GError **error) {
  const Job *job = collector_job(c);
  const Checkpoint *checkpoint = collector_checkpoint(c);
  CallerRights rights;
  if (!caller_is_limited(job))
    return true;
  g_autoptr(GPtrArray) closed = caller_rights_begin(job, &rights, NULL) ? find_closed(c) : NULL;
  caller_rights_end(&rights);
  for (guint t = 0; closed && closed->len && t < checkpoint->tasks->len; t++) {
    const Task *task = checkpoint->tasks->pdata[t];
    for (guint i = 0; i < task->fds->len; i++) {
      const FdinfoEntry *fd = task->fds->pdata[i];
      const FileEntry *e = checkpoint_find_file(checkpoint, fd->id);
      if (e && e->reg && g_ptr_array_remove(closed, e->reg) && access(e->reg->name, F_OK) == 0)
        job_log(collector_job(c), 4, "pid %d fd %u: you may not open %s yourself, and your restore will open files with your rights: %s",
            (int)task_pid(task), fd->fd, e->reg->name, RIGHTS_CURE);
    }
  }
  return true; /* a warning only */
}

const ObjectOps reg_ops = {
    .name = "file",
    .type = FD_TYPES__REG,
    .claims = reg_claims,
    .collect = reg_collect,
    .collect_finish = reg_collect_finish,
    .open = reg_open_first,
    .is_late = reg_is_late,
    .open_late = reg_open_late,
    .fown = reg_fown,
    .end = reg_end,
};
