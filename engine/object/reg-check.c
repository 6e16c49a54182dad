/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "reg-check.h"
#include "external.h"
#include "file-state.h"
#include "internal.h"
#include "proc-file.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <pthread.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

bool reg_is_plain_device(const struct stat *st) {
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

bool reg_is_ordinary(const RegFileEntry *reg) {
  return reg->has_mode && S_ISREG(reg->mode) && !(reg->flags & O_PATH) && !proc_file_pid(reg->name);
}

static bool stat_opened(const RegFileEntry *reg, int fd, struct stat *ret_st, GError **error) {
  return fstat(fd, ret_st) == 0 || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat %s", reg->name);
}

static bool check_type(const RegFileEntry *reg, const CkptExternal *record, const struct stat *st, GError **error) {
  if (reg->has_mode && (st->st_mode & S_IFMT) != (reg->mode & S_IFMT))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE,
        "%s is a file of another type now (mode 0%o, was 0%o)", reg->name, st->st_mode, reg->mode);
  if (!reg->has_mode && !S_ISREG(st->st_mode) && !S_ISDIR(st->st_mode) && !reg_is_plain_device(st))
    return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, "%s is no regular file now", reg->name);
  bool device = S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode);
  if (device && !(reg->flags & O_PATH) && !reg_is_plain_device(st) && !record)
    return engine_fail(error, ENGINE_ERROR_CODE__NOT_SUPPORTED,
        "%s is a device, which only a rule may open again (external: device:path=%s action=reopen)", reg->name,
        reg->name);
  if (device && record && record->has_rdev && (guint32)st->st_rdev != record->rdev)
    return engine_fail(error, ENGINE_ERROR_CODE__FILE_CHANGED, "%s is another device now (%u:%u, it was %u:%u)", reg->name,
        major(st->st_rdev), minor(st->st_rdev), major((dev_t)record->rdev), minor((dev_t)record->rdev));
  return true;
}

/* What the entry itself says, as the record of a rule would. */
static CkptFileState state_of_entry(const RegFileEntry *reg) {
  CkptFileState state = CKPT_FILE_STATE__INIT;
  state.has_size = reg->has_size;
  state.size = reg->size;
  state.has_build_id = reg->n_build_id > 0;
  state.build_id.len = reg->n_build_id * sizeof *reg->build_id;
  state.build_id.data = (uint8_t *)reg->build_id;
  return state;
}

static bool check_state(const RegFileEntry *reg, const CkptExternal *record, const ExternalAnswer *answer, int fd, const struct stat *st,
    GError **error) {
  CkptFileState entry = state_of_entry(reg);
  const CkptFileState *was = record && record->file ? record->file : &entry;
  unsigned kept = (was->has_size ? EXTERNAL_CHECK_SIZE : 0) | (was->has_mtime_sec ? EXTERNAL_CHECK_MTIME : 0) |
                  (was->has_build_id ? EXTERNAL_CHECK_BUILD_ID : 0) | (was->has_content ? EXTERNAL_CHECK_CONTENT : 0);
  unsigned checks = answer->has_checks ? answer->checks : EXTERNAL_CHECK_SIZE | EXTERNAL_CHECK_BUILD_ID;
  if (!answer->has_checks || answer->if_kept)
    checks &= kept;
  return !checks || file_state_check(was, reg->name, fd, st, checks, error);
}

bool reg_check_opened(const RegFileEntry *reg, const CkptExternal *record, const ExternalAnswer *answer, int fd, GError **error) {
  struct stat st;
  return stat_opened(reg, fd, &st, error) && check_type(reg, record, &st, error) && check_state(reg, record, answer, fd, &st, error);
}

/* What untrusted.c saw of a path is its name; links lead elsewhere. Below /proc are processes, and /proc/self is us. */
bool reg_check_untrusted(const Restorer *r, const RegFileEntry *reg, int fd, GError **error) {
  struct statfs fs;
  struct stat st;
  if (!job_options(restorer_job(r))->untrusted_images)
    return true;
  if (!stat_opened(reg, fd, &st, error))
    return false;
  if (fstatfs(fd, &fs) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot stat %s", reg->name);
  const char *what = fs.f_type == PROC_SUPER_MAGIC                                             ? "a process"
                     : (S_ISCHR(st.st_mode) || S_ISBLK(st.st_mode)) && !reg_is_plain_device(&st) ? "a device"
                                                                                               : NULL;
  return !what || engine_fail(error, ENGINE_ERROR_CODE__NOT_PERMITTED_TARGET,
                      "The images ask for more than you may have: %s is not a file but %s", reg->name, what);
}

bool reg_finish(const RegFileEntry *reg, int fd, GError **error) {
  if (!reg_is_ordinary(reg) && fcntl(fd, F_GETFL) & O_PATH)
    return true;
  if (!restorer_set_flags(fd, reg->flags, error))
    return false;
  if (reg->pos && lseek(fd, (off_t)reg->pos, SEEK_SET) < 0 && !proc_file_pid(reg->name))
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INVALID, errno,
        "Cannot set the position %" G_GUINT64_FORMAT " of %s", reg->pos, reg->name);
  return true;
}

/* --- by another thread --- */

#define PORTION 512u /* of files, for which it is woken */

typedef struct Opened {
  const RegFileEntry *reg;
  int fd;
} Opened;

struct RegChecker {
  const Restorer *restorer;
  pthread_t thread;
  pthread_mutex_t mutex;
  pthread_cond_t changed;
  Opened *list;
  guint room, n; /* of who opens */
  guint given;   /* to the thread */
  bool ended;
  GError *error; /* the first; what comes afterwards is not looked at */
};

/* How many there are to be done; as many as @done: no more will come. */
static guint await_files(RegChecker *c, guint done) {
  (void)pthread_mutex_lock(&c->mutex);
  while (c->given == done && !c->ended)
    (void)pthread_cond_wait(&c->changed, &c->mutex);
  guint given = c->given;
  (void)pthread_mutex_unlock(&c->mutex);
  return given;
}

static void give_files(RegChecker *c, bool ended) {
  (void)pthread_mutex_lock(&c->mutex);
  c->given = c->n;
  c->ended = ended;
  (void)pthread_cond_signal(&c->changed);
  (void)pthread_mutex_unlock(&c->mutex);
}

static bool check_one(RegChecker *c, const Opened *o) {
  const ExternalAnswer nobody = {.fd = -1};
  if (reg_check_opened(o->reg, NULL, &nobody, o->fd, &c->error) && reg_check_untrusted(c->restorer, o->reg, o->fd, &c->error) &&
      reg_finish(o->reg, o->fd, &c->error))
    return true;
  g_prefix_error(&c->error, "Cannot restore file id %u (%s): ", o->reg->id, o->reg->name);
  return false;
}

static void *check_all(void *data) {
  RegChecker *c = data;
  for (guint done = 0, n; (n = await_files(c, done)) > done;)
    for (; done < n; done++)
      if (!c->error)
        (void)check_one(c, &c->list[done]);
  return NULL;
}

RegChecker *reg_checker_start(const Restorer *restorer, guint room) {
  RegChecker *c = g_new0(RegChecker, 1);
  c->restorer = restorer;
  c->room = room;
  c->list = g_new(Opened, room);
  (void)pthread_mutex_init(&c->mutex, NULL);
  (void)pthread_cond_init(&c->changed, NULL);
  if (pthread_create(&c->thread, NULL, check_all, c) == 0)
    return c;
  g_free(c->list);
  g_free(c);
  return NULL;
}

bool reg_checker_take(RegChecker *c, const RegFileEntry *reg, int fd) {
  if (!c || c->n == c->room)
    return false;
  c->list[c->n++] = (Opened){reg, fd};
  if (c->n % PORTION == 0)
    give_files(c, false);
  return true;
}

bool reg_checker_end(RegChecker *c, GError **error) {
  if (!c)
    return true;
  give_files(c, true);
  (void)pthread_join(c->thread, NULL);
  bool ok = !c->error;
  if (!ok)
    g_propagate_error(error, c->error);
  (void)pthread_cond_destroy(&c->changed);
  (void)pthread_mutex_destroy(&c->mutex);
  g_free(c->list);
  g_free(c);
  return ok;
}
