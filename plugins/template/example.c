/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A plugin to begin with: copy this folder, rename what is called example, and replace the device by yours.
 *
 * It takes descriptors of one device, /dev/loop-control, which has no state but the descriptor itself: so all there is
 * to keep is which device it was. docs/plugins.md walks through this file line by line. */

#include <checkpoint-plugin.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEVICE "/dev/loop-control"

/* What is kept of a descriptor. Plain bytes do for something this small; a protobuf message grows better. */
struct record {
  uint32_t version;
  uint32_t flags; /* access mode */
};

/* Is this object ours? Look at what it is, not at what it is called: paths can lie. */
static int is_ours(const struct checkpoint_object *object) {
  struct stat device;
  return S_ISCHR(object->mode) && stat(DEVICE, &device) == 0 && device.st_rdev == object->rdev;
}

static int example_init(const struct checkpoint_host *host, void **ret_context) {
  *ret_context = (void *)host; /* a real plugin keeps a structure of its own, and the host in it */
  return 0;
}

/* The application stands still. object->fd is a duplicate of its descriptor: ask the driver what you need to know. */
static int example_dump(void *context, const struct checkpoint_object *object) {
  const struct checkpoint_host *host = context;
  const struct record record = {.version = 1, .flags = (uint32_t)object->flags & O_ACCMODE};
  if (!is_ours(object))
    return -ENOTSUP; /* the next plugin is asked, or the dump is refused */
  host->log(host, 6, "descriptor %d of pid %d (%s) is kept", object->number, object->pid, object->comm);
  return host->record_add(host, object->id, &record, sizeof record);
}

/* The application is not there yet. What comes from the record comes from a file: check it. */
static int example_restore(void *context, const struct checkpoint_object *object, int *ret_fd, uint64_t *ret_offset) {
  const struct checkpoint_host *host = context;
  struct record record;
  const void *data;
  size_t size;
  if (!is_ours(object))
    return -ENOTSUP;
  if (host->caller != CHECKPOINT_CALLER_TRUSTED)
    return -EPERM; /* we are root, but the job is somebody's who could not open this device */
  int r = host->record_get(host, object->id, 0, &data, &size);
  if (r < 0)
    return r;
  if (size != sizeof record)
    return -EBADMSG;
  memcpy(&record, data, size);
  if (record.version != 1 || record.flags & ~(uint32_t)O_ACCMODE)
    return -EBADMSG;
  int fd = open(DEVICE, (int)record.flags | O_CLOEXEC);
  if (fd < 0)
    return -errno;
  *ret_fd = fd; /* the engine's now: it sets the other flags, and hands it to every task that had it */
  return 0;
}

static void example_fini(void *context, int result) {
  const struct checkpoint_host *host = context;
  if (result < 0)
    host->log(host, 4, "the job has failed: %s", strerror(-result));
}

CHECKPOINT_PLUGIN = {
    CHECKPOINT_PLUGIN_HEADER("example", "1", "Keeps descriptors of " DEVICE),
    .flags = CHECKPOINT_PLUGIN_EXPLAINS,
    .kinds = CHECKPOINT_KIND_FILE,
    .init = example_init,
    .fini = example_fini,
    .dump = example_dump,
    .restore = example_restore,
};
