/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The store is the service's alone: root's, mode 0700, and no path in it ever comes
 * from a caller. Names are checked letters below a directory of the caller's uid as
 * the bus gave it. The service runs without CAP_DAC_OVERRIDE: it reaches the store as
 * the owner of the directories, and nothing else. */
#include "store.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>

#include "daemon-error.h"
#include "file-tree.h"
#include "note.h"
#include "store-draft.h"

#define NAME_MAX_BYTES 128
#define ID_FILE ".job-id"
#define ID_BLOCK 64 /* ids are reserved in blocks, so that most jobs write nothing */

typedef struct Usage {
  uint64_t bytes;
  uint32_t count;
} Usage;

struct Store {
  int fd;
  uint64_t next_id;
  uint64_t reserved_ids_end;
  GHashTable *usage; /* uid → Usage, of those that were counted */
};

static void directory_close(DIR *directory) {
  (void)closedir(directory);
}
G_DEFINE_AUTOPTR_CLEANUP_FUNC(DIR, directory_close)

void store_free(Store *store) {
  if (!store)
    return;
  if (store->fd >= 0)
    (void)close(store->fd);
  g_clear_pointer(&store->usage, g_hash_table_unref);
  g_free(store);
}

Store *store_new(const char *path, GError **error) {
  g_autoptr(Store) store = g_new0(Store, 1);
  struct stat st;

  store->usage = g_hash_table_new_full(g_direct_hash, g_direct_equal, NULL, g_free);
  store->fd = -EBADF;
  if (mkdirat(AT_FDCWD, path, 0700) < 0 && errno != EEXIST)
    return daemon_error_set_errno(error, errno, path), NULL;
  store->fd = file_tree_open(AT_FDCWD, path);
  if (store->fd < 0)
    return daemon_error_set_errno(error, -store->fd, path), NULL;
  if (fstat(store->fd, &st) < 0)
    return daemon_error_set_errno(error, errno, path), NULL;
  if (st.st_uid != geteuid()) {
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__FAILED, "%s: belongs to uid %u", path, st.st_uid);
    return NULL;
  }
  if ((st.st_mode & 07777) != 0700 && fchmod(store->fd, 0700) < 0)
    return daemon_error_set_errno(error, errno, path), NULL;
  return g_steal_pointer(&store);
}

int store_fd(const Store *store) {
  return store->fd;
}

bool store_check_name(const char *name, GError **error) {
  size_t length = strlen(name);
  bool good = length > 0 && length <= NAME_MAX_BYTES && name[0] != '.';

  for (size_t i = 0; good && i < length; i++)
    good = g_ascii_isalnum(name[i]) || strchr("._-+@:", name[i]);
  if (!good)
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__INVALID_ARGS,
        "A checkpoint's name is 1 to %d letters of A-Z a-z 0-9 . _ - + @ : and does not begin with a dot",
        NAME_MAX_BYTES);
  return good;
}

int store_open_user(Store *store, uid_t uid, bool create) {
  g_autofree char *name = g_strdup_printf("%u", uid);

  if (create && mkdirat(store->fd, name, 0700) < 0 && errno != EEXIST)
    return -errno;
  return file_tree_open(store->fd, name);
}

bool store_is_complete(int user_fd, const char *name) {
  g_autofree char *path = g_strdup_printf("%s/images/inventory.img", name);
  struct stat st;

  return fstatat(user_fd, path, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISREG(st.st_mode);
}

bool store_has(Store *store, uid_t uid, const char *name) {
  int user_fd = store_open_user(store, uid, false);
  bool found;

  if (user_fd < 0)
    return false;
  found = faccessat(user_fd, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
  (void)close(user_fd);
  return found;
}

static int open_checkpoint(Store *store, uid_t uid, const char *name, GError **error) {
  int user_fd = store_open_user(store, uid, false), fd = user_fd;

  if (user_fd >= 0) {
    fd = file_tree_open(user_fd, name);
    (void)close(user_fd);
  }
  if (fd == -ENOENT)
    g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__NO_SUCH_CHECKPOINT, "There is no checkpoint '%s'", name);
  else if (fd < 0)
    (void)daemon_error_set_errno(error, -fd, name);
  return fd;
}

int store_open_images(Store *store, uid_t uid, const char *name, GError **error) {
  int fd = open_checkpoint(store, uid, name, error), images;
  struct stat st;

  if (fd < 0)
    return -1;
  images = file_tree_open(fd, "images");
  if (images >= 0 && fstatat(images, "inventory.img", &st, AT_SYMLINK_NOFOLLOW) < 0) {
    (void)close(images);
    images = -ENOENT;
  }
  (void)close(fd);
  if (images >= 0)
    return images;
  g_set_error(error, DAEMON_ERROR, ENGINE_ERROR_CODE__IMAGE_INVALID,
      "Checkpoint '%s' is not complete: images/inventory.img: %s", name, g_strerror(-images));
  return -1;
}

GVariant *store_describe(Store *store, uid_t uid, const char *name, GError **error) {
  g_autoptr(GVariant) note = NULL;
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(NULL);
  int fd = open_checkpoint(store, uid, name, error);
  int images;

  if (fd < 0)
    return NULL;
  note = note_read(fd);
  if (note) {
    g_variant_dict_clear(&dict);
    g_variant_dict_init(&dict, note);
  }
  images = faccessat(fd, "images/inventory.img", F_OK, AT_SYMLINK_NOFOLLOW);
  (void)close(fd);
  g_variant_dict_insert(&dict, "name", "s", name);
  g_variant_dict_insert(&dict, "owner", "u", uid);
  g_variant_dict_insert(&dict, "complete", "b", images == 0);
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}

static void list_user(Store *store, uid_t uid, StoreVisitor visit, void *userdata) {
  int user_fd = store_open_user(store, uid, false);
  g_autoptr(DIR) directory = user_fd < 0 ? NULL : fdopendir(user_fd);
  const struct dirent *entry;

  while (directory && (entry = readdir(directory))) {
    g_autoptr(GVariant) description = NULL;

    if (entry->d_name[0] == '.' || !store_check_name(entry->d_name, NULL))
      continue;
    description = store_describe(store, uid, entry->d_name, NULL);
    if (description)
      visit(entry->d_name, description, userdata);
  }
}

/* All uids that have a directory, as GUINT_TO_POINTER. */
static GArray *list_uids(Store *store) {
  GArray *uids = g_array_new(FALSE, FALSE, sizeof(uid_t));
  int fd = file_tree_open(store->fd, ".");
  g_autoptr(DIR) directory = fd < 0 ? NULL : fdopendir(fd);
  const struct dirent *entry;

  while (directory && (entry = readdir(directory))) {
    uint64_t value;
    uid_t uid;

    if (!g_ascii_string_to_unsigned(entry->d_name, 10, 0, UINT32_MAX - 1, &value, NULL))
      continue;
    uid = (uid_t)value;
    g_array_append_val(uids, uid);
  }
  return uids;
}

void store_list(Store *store, uid_t uid, StoreVisitor visit, void *userdata) {
  g_autoptr(GArray) uids = NULL;

  if (uid != (uid_t)-1) {
    list_user(store, uid, visit, userdata);
    return;
  }
  uids = list_uids(store);
  for (size_t i = 0; i < uids->len; i++)
    list_user(store, g_array_index(uids, uid_t, i), visit, userdata);
}

bool store_remove(Store *store, uid_t uid, const char *name, GError **error) {
  /* Renamed first: a removal that is interrupted leaves no half checkpoint behind. */
  g_autofree char *grave = g_strdup_printf(DRAFT_PREFIX "%" PRIu64, store_next_job_id(store));
  int user_fd, r = 0, fd = open_checkpoint(store, uid, name, error);

  if (fd < 0)
    return false;
  (void)close(fd);
  user_fd = store_open_user(store, uid, false);
  if (user_fd < 0)
    return daemon_error_set_errno(error, -user_fd, name);
  {
    /* Without its inventory the tree is nobody's checkpoint, also for store_recover(). */
    g_autofree char *inventory = g_strdup_printf("%s/images/inventory.img", grave);

    if (renameat(user_fd, name, user_fd, grave) < 0)
      r = -errno;
    if (r == 0) {
      (void)unlinkat(user_fd, inventory, 0);
      r = file_tree_remove(user_fd, grave);
    }
  }
  (void)close(user_fd);
  store_usage_changed(store, uid);
  return r == 0 || daemon_error_set_errno(error, -r, name);
}

static void count_usage(const char *name, GVariant *description, void *userdata) {
  Usage *usage = userdata;
  guint64 bytes = 0;

  (void)g_variant_lookup(description, "disk-bytes", "t", &bytes);
  usage->bytes += bytes;
  usage->count++;
}

void store_usage(Store *store, uid_t uid, uint64_t *ret_bytes, uint32_t *ret_count) {
  Usage *usage = g_hash_table_lookup(store->usage, GUINT_TO_POINTER(uid));

  if (!usage) {
    usage = g_new0(Usage, 1);
    list_user(store, uid, count_usage, usage);
    g_hash_table_insert(store->usage, GUINT_TO_POINTER(uid), usage);
  }
  *ret_bytes = usage->bytes;
  *ret_count = usage->count;
}

void store_usage_changed(Store *store, uid_t uid) {
  (void)g_hash_table_remove(store->usage, GUINT_TO_POINTER(uid));
}

uint64_t store_free_bytes(Store *store) {
  struct statvfs fs;

  if (fstatvfs(store->fd, &fs) < 0)
    return 0;
  return (uint64_t)fs.f_bavail * fs.f_frsize;
}

/* Takes the next block of ids from the file, under a lock: for a moment two instances
 * of the service can live (one that leaves and its successor). */
static uint64_t reserve_ids(Store *store) {
  uint64_t first = 0;
  char text[32] = "";
  int fd = openat(store->fd, ID_FILE, O_RDWR | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);

  if (fd >= 0) {
    (void)flock(fd, LOCK_EX);
    if (pread(fd, text, sizeof text - 1, 0) > 0)
      first = g_ascii_strtoull(text, NULL, 10);
    if (first == 0)
      first = 1;
    g_snprintf(text, sizeof text, "%020" PRIu64 "\n", first + ID_BLOCK);
    if (pwrite(fd, text, strlen(text), 0) < (ssize_t)strlen(text))
      first = 0;
    (void)close(fd);
  }
  /* A store that cannot be written: the clock never repeats either, within one boot. */
  return first > 0 ? first : (uint64_t)g_get_monotonic_time();
}

uint64_t store_next_job_id(Store *store) {
  if (store->next_id == store->reserved_ids_end) {
    store->next_id = reserve_ids(store);
    store->reserved_ids_end = store->next_id + ID_BLOCK;
  }
  return store->next_id++;
}

static void recover_user(Store *store, uid_t uid) {
  int user_fd = store_open_user(store, uid, false);
  g_autoptr(DIR) directory = user_fd < 0 ? NULL : fdopendir(user_fd);
  const struct dirent *entry;

  while (directory && (entry = readdir(directory))) {
    g_autofree char *name = NULL;
    int fd, free_to_take;

    if (!g_str_has_prefix(entry->d_name, DRAFT_PREFIX))
      continue;
    fd = file_tree_open(user_fd, entry->d_name);
    free_to_take = fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0; /* else another instance's */
    if (free_to_take && store_is_complete(user_fd, entry->d_name)) {
      name = g_strdup_printf("recovered-%s", entry->d_name + strlen(DRAFT_PREFIX));
      g_printerr("An unfinished dump of uid %u is complete on disk; it is now checkpoint '%s'\n", uid, name);
      (void)renameat2(user_fd, entry->d_name, user_fd, name, RENAME_NOREPLACE);
    } else if (free_to_take || fd == -ENOTDIR)
      (void)file_tree_remove(user_fd, entry->d_name);
    if (fd >= 0)
      (void)close(fd);
  }
}

void store_recover(Store *store) {
  g_autoptr(GArray) uids = list_uids(store);

  for (size_t i = 0; i < uids->len; i++)
    recover_user(store, g_array_index(uids, uid_t, i));
}
