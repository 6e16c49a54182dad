/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "embedded.h"
#include "external.h"
#include "file-state.h"
#include "ghost-file.pb-c.h"
#include "image.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <sys/time.h>

static bool fill(Restorer *r, const char *path, const GhostFileEntry *ghost, guint32 id, int fd, GError **error) {
  if (!image_copy_ghost(restorer_images_fd(r), id, fd, error))
    return false;
  struct timespec times[2] = {{.tv_nsec = UTIME_OMIT}, {.tv_nsec = UTIME_OMIT}};
  if (ghost->mtim)
    times[1] = (struct timespec){(time_t)ghost->mtim->tv_sec, (long)ghost->mtim->tv_usec * 1000};
  if ((fchown(fd, ghost->uid, ghost->gid) < 0 && errno != EPERM) || fchmod(fd, ghost->mode & 07777) < 0 ||
      futimens(fd, times) < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, errno, "Cannot set owner and mode of %s", path);
  return true;
}

/* Under another name first: nobody sees half a file, and one that has come up meanwhile is not touched. */
static bool make(Restorer *r, const RegFileEntry *reg, const GhostFileEntry *ghost, guint32 id, GError **error) {
  g_autofree char *temporary = g_strdup_printf("%s.checkpoint-%08x", reg->name, g_random_int());
  _cleanup_fd_ int fd = open(temporary, O_CREAT | O_EXCL | O_WRONLY | O_CLOEXEC | O_NOFOLLOW, 0600);
  if (fd < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno,
        "Cannot make the embedded file %s again", reg->name);
  bool ok = fill(r, reg->name, ghost, id, fd, error);
  if (ok && renameat2(AT_FDCWD, temporary, AT_FDCWD, reg->name, RENAME_NOREPLACE) == 0)
    return true;
  int reason = errno;
  (void)unlink(temporary);
  return !ok ? false
             : engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, reason,
                   "Cannot put the embedded file %s into its place", reg->name);
}

bool embedded_prepare(Restorer *r, const RegFileEntry *reg, const CkptExternal *record, GError **error) {
  if (!record || !record->file || !record->file->has_ghost_id || reg->name[0] != '/')
    return engine_fail(error, ENGINE_ERROR_CODE__INVALID_ARGS,
        "The content of %s is not in the checkpoint: action=embed must be said at the dump", reg->name);
  _cleanup_fd_ int there = open(reg->name, O_PATH | O_CLOEXEC);
  if (there >= 0) {
    g_autoptr(GError) failure = NULL;
    if (file_state_check(record->file, reg->name, there, EXTERNAL_CHECK_SIZE | EXTERNAL_CHECK_CONTENT, &failure))
      return true;
    g_autofree char *hint = g_strdup_printf("The checkpoint has the content of the dump, but another file is there (move it "
                                            "away to have that of the checkpoint, or take it with action=reopen check=none): ");
    g_propagate_prefixed_error(error, g_steal_pointer(&failure), "%s", hint);
    return false;
  }
  if (errno != ENOENT)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__IMAGE_INCOMPATIBLE, errno, "Cannot look at %s", reg->name);
  GhostFileEntry *ghost = (GhostFileEntry *)image_read_ghost(restorer_images_fd(r), record->file->ghost_id, error);
  bool ok = ghost && (S_ISREG(ghost->mode) || engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID,
                                                  "The embedded file %s is no regular file", reg->name));
  ok = ok && make(r, reg, ghost, record->file->ghost_id, error);
  if (ghost)
    ghost_file_entry__free_unpacked(ghost, NULL);
  return ok;
}
