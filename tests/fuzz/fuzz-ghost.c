/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The reader of ghost files: an input is one. */

#include "fixture.h"
#include "fuzz.h"
#include "image.h"
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static int dir = -1;
static char *path;

static void forget(void) {
  fixture_remove(path, dir);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  if (dir < 0) {
    dir = fixture_directory(&path);
    (void)atexit(forget);
  }
  int file = openat(dir, "ghost-file-1.img", O_CREAT | O_WRONLY | O_TRUNC | O_CLOEXEC, 0600);
  int into = memfd_create("into", MFD_CLOEXEC);
  if (file < 0 || into < 0 || write(file, data, size) != (ssize_t)size)
    abort();
  g_autoptr(GError) error = NULL;
  ProtobufCMessage *ghost = image_read_ghost(dir, 1, &error);
  if ((ghost == NULL) != (error != NULL))
    abort();
  g_clear_error(&error);
  if (image_copy_ghost(dir, 1, into, &error) != (error == NULL))
    abort();
  struct stat st; /* what was copied came from the file, whatever it says about its size */
  if (fstat(into, &st) < 0 || (size_t)st.st_blocks * 512 > size * 4096 + 8192)
    abort();
  if (ghost)
    protobuf_c_message_free_unpacked(ghost, NULL);
  (void)close(into);
  (void)close(file);
  return 0;
}
