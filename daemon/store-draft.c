/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A dump goes into a directory of its own and gets its name by one rename at the end:
 * an old checkpoint of that name stays whole until then, and a dump that fails leaves
 * nothing. The directory is locked (flock) as long as its maker lives, which tells
 * store_recover() of a next instance what is still being written. */
#include "store-draft.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "daemon-error.h"
#include "file-tree.h"
#include "note.h"

struct StoreDraft {
  Store *store; /* not ours */
  uid_t uid;
  char *name;
  char *directory; /* .tmp-ID; NULL once it is not ours to remove */
  int user_fd;
  int fd;
  int images_fd;
};

static void close_fd(int *fd) {
  if (*fd >= 0)
    (void)close(*fd);
  *fd = -EBADF;
}

void store_draft_free(StoreDraft *draft) {
  if (!draft)
    return;
  close_fd(&draft->images_fd);
  if (draft->directory && draft->user_fd >= 0)
    (void)file_tree_remove(draft->user_fd, draft->directory);
  close_fd(&draft->fd);
  close_fd(&draft->user_fd);
  g_free(draft->directory);
  g_free(draft->name);
  g_free(draft);
}

int store_draft_images_fd(const StoreDraft *draft) {
  return draft->images_fd;
}

StoreDraft *store_draft_new(Store *store, uid_t uid, const char *name, uint64_t id, GVariant *note, GError **error) {
  g_autoptr(StoreDraft) draft = g_new0(StoreDraft, 1);
  const char *what = "Cannot make a directory in the store";

  draft->store = store;
  draft->uid = uid;
  draft->name = g_strdup(name);
  draft->directory = g_strdup_printf(DRAFT_PREFIX "%" PRIu64, id);
  draft->fd = draft->images_fd = -EBADF;
  draft->user_fd = store_open_user(store, uid, true);
  if (draft->user_fd < 0)
    return daemon_error_set_errno(error, -draft->user_fd, what), NULL;
  if (mkdirat(draft->user_fd, draft->directory, 0700) < 0) {
    (void)daemon_error_set_errno(error, errno, what);
    g_clear_pointer(&draft->directory, g_free);
    return NULL;
  }
  draft->fd = file_tree_open(draft->user_fd, draft->directory);
  if (draft->fd < 0)
    return daemon_error_set_errno(error, -draft->fd, what), NULL;
  (void)flock(draft->fd, LOCK_EX | LOCK_NB);
  if (mkdirat(draft->fd, "images", 0700) < 0)
    return daemon_error_set_errno(error, errno, what), NULL;
  draft->images_fd = file_tree_open(draft->fd, "images");
  if (draft->images_fd < 0)
    return daemon_error_set_errno(error, -draft->images_fd, what), NULL;
  if (!note_write(draft->fd, note, false, error))
    return NULL;
  return g_steal_pointer(&draft);
}

static GVariant *note_with_size(const StoreDraft *draft, GVariant *note) {
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(note);

  g_variant_dict_insert(&dict, "disk-bytes", "t", file_tree_bytes(draft->fd, "."));
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

static int publish(const StoreDraft *draft) {
  g_autofree char *inventory = NULL;

  if (renameat2(draft->user_fd, draft->directory, draft->user_fd, draft->name, RENAME_NOREPLACE) == 0)
    return 0;
  if (errno != EEXIST)
    return -errno;
  if (renameat2(draft->user_fd, draft->directory, draft->user_fd, draft->name, RENAME_EXCHANGE) < 0)
    return -errno;
  /* Under the draft's name there is now the old checkpoint. */
  inventory = g_strdup_printf("%s/images/inventory.img", draft->directory);
  (void)unlinkat(draft->user_fd, inventory, 0);
  (void)file_tree_remove(draft->user_fd, draft->directory);
  return 0;
}

bool store_draft_commit(StoreDraft *draft, GVariant *note, bool durable, GError **error) {
  g_autoptr(GVariant) sized = note_with_size(draft, note);
  g_autoptr(GError) note_error = NULL;
  int r;

  if (faccessat(draft->images_fd, "inventory.img", F_OK, AT_SYMLINK_NOFOLLOW) < 0) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__FAILED, "The engine wrote no inventory.img");
    return false;
  }
  /* The images are what counts: with no space left for a few bytes about them, the
   * note made at the beginning has to do. */
  if (!note_write(draft->fd, sized, durable, &note_error))
    g_printerr("%s: %s\n", draft->name, note_error->message);
  r = publish(draft);
  if (r == 0 && durable && fsync(draft->user_fd) < 0)
    r = -errno;
  if (r < 0)
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__FAILED,
        "Cannot give the checkpoint its name '%s': %s; its images are complete in the store's directory %u/%s",
        draft->name, g_strerror(-r), draft->uid, draft->directory);
  g_clear_pointer(&draft->directory, g_free);
  store_usage_changed(draft->store, draft->uid);
  return r == 0;
}
