/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "note.h"

#include <errno.h>
#include <fcntl.h>
#include <unistd.h>

#include "daemon-error.h"

#define GROUP "checkpoint"
#define NOTE_MAX (1 << 20)

static int write_all(int fd, const char *data, size_t size) {
  while (size > 0) {
    ssize_t n = write(fd, data, size);

    if (n < 0 && errno == EINTR)
      continue;
    if (n < 0)
      return -errno;
    data += n;
    size -= (size_t)n;
  }
  return 0;
}

static char *note_to_text(GVariant *note, size_t *ret_size) {
  g_autoptr(GKeyFile) file = g_key_file_new();
  GVariantIter iter;
  const char *key;
  GVariant *value;

  g_variant_iter_init(&iter, note);
  while (g_variant_iter_loop(&iter, "{&sv}", &key, &value)) {
    g_autofree char *text = g_variant_print(value, TRUE);
    g_key_file_set_string(file, GROUP, key, text);
  }
  return g_key_file_to_data(file, ret_size, NULL);
}

bool note_write(int dirfd, GVariant *note, bool durable, GError **error) {
  size_t size = 0;
  g_autofree char *text = note_to_text(note, &size);
  int fd, r;

  fd = openat(dirfd, "meta", O_WRONLY | O_CREAT | O_NOFOLLOW | O_CLOEXEC, 0600);
  if (fd < 0)
    return daemon_error_set_errno(error, errno, "Cannot write the checkpoint's description");
  /* Cut afterwards: the block that is there is not given away on a full disk. */
  r = write_all(fd, text, size);
  if (r == 0 && ftruncate(fd, (off_t)size) < 0)
    r = -errno;
  if (r == 0 && durable && fsync(fd) < 0)
    r = -errno;
  if (close(fd) < 0 && r == 0)
    r = -errno;
  return r == 0 || daemon_error_set_errno(error, -r, "Cannot write the checkpoint's description");
}

static char *read_text(int dirfd) {
  g_autofree char *text = g_malloc(NOTE_MAX);
  size_t size = 0;
  ssize_t n = 1;
  int fd = openat(dirfd, "meta", O_RDONLY | O_NOFOLLOW | O_CLOEXEC);

  if (fd < 0)
    return NULL;
  while (size < NOTE_MAX - 1 && (n = read(fd, text + size, NOTE_MAX - 1 - size)) > 0)
    size += (size_t)n;
  (void)close(fd);
  text[size] = '\0';
  return n == 0 ? g_realloc(g_steal_pointer(&text), size + 1) : NULL;
}

GVariant *note_read(int dirfd) {
  g_autofree char *text = read_text(dirfd);
  g_autoptr(GKeyFile) file = g_key_file_new();
  g_auto(GVariantDict) dict = G_VARIANT_DICT_INIT(NULL);
  g_auto(GStrv) keys = NULL;

  if (!text || !g_key_file_load_from_data(file, text, (size_t)-1, G_KEY_FILE_NONE, NULL))
    return NULL;
  keys = g_key_file_get_keys(file, GROUP, NULL, NULL);
  for (size_t i = 0; keys && keys[i]; i++) {
    g_autofree char *value = g_key_file_get_string(file, GROUP, keys[i], NULL);
    GVariant *parsed = value ? g_variant_parse(NULL, value, NULL, NULL, NULL) : NULL;

    if (!parsed)
      return NULL;
    g_variant_dict_insert_value(&dict, keys[i], parsed);
    g_variant_unref(parsed);
  }
  return g_variant_ref_sink(g_variant_dict_end(&dict));
}
