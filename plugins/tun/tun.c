/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Tunnels: descriptors of /dev/net/tun, with their devices. A device that is not persistent goes with its last
 * descriptor, and with it go addresses and routes: all of that is made again. docs/plugins/tun.md */

#include "checkpoint-plugin.h"
#include "rtnl.h"
#include "tun-record.pb-c.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#define TUN_MAJOR 10
#define TUN_MINOR 200
#define TUN_PATH "/dev/net/tun"
/* What TUNSETIFF takes; the rest of TUNGETIFF's is state. */
#define KEPT_FLAGS                                                                                                     \
  (IFF_TUN | IFF_TAP | IFF_NAPI | IFF_NAPI_FRAGS | IFF_NO_PI | IFF_ONE_QUEUE | IFF_VNET_HDR | IFF_MULTI_QUEUE)
#define LIST_MAX 256

static const struct checkpoint_host *host_of(void *context) {
  return context;
}

/* --- dump --- */

static bool is_tun(const struct checkpoint_object *o) {
  return S_ISCHR(o->mode) && major(o->rdev) == TUN_MAJOR && minor(o->rdev) == TUN_MINOR;
}

/* The device's namespace must be ours: what is asked about it below is asked here. An older kernel does not say; then a
 * device of that name is enough. */
static bool is_here(int fd, const char *name) {
  struct stat theirs, ours;
  int ns = ioctl(fd, TUNGETDEVNETNS);
  if (ns < 0)
    return if_nametoindex(name) != 0;
  bool same = fstat(ns, &theirs) == 0 && stat("/proc/self/ns/net", &ours) == 0 && theirs.st_ino == ours.st_ino &&
              theirs.st_dev == ours.st_dev;
  (void)close(ns);
  return same;
}

/* A decimal number in a file of sysfs; @otherwise if it cannot be read. */
static long long read_number(const char *device, const char *file, long long otherwise) {
  char path[128], text[32];
  (void)snprintf(path, sizeof path, "/sys/class/net/%.15s/%s", device, file);
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof text - 1);
  if (fd >= 0)
    (void)close(fd);
  if (n <= 0)
    return otherwise;
  text[n] = '\0';
  return strtoll(text, NULL, 10);
}

/* A list of messages: a repeated field of the record. */
typedef struct List {
  ProtobufCBinaryData *items;
  size_t n;
} List;

static int list_add(void *data, const void *message, size_t size) {
  List *list = data;
  ProtobufCBinaryData *items = list->n < LIST_MAX ? realloc(list->items, (list->n + 1) * sizeof *items) : NULL;
  void *copy = items ? malloc(size) : NULL;
  if (items)
    list->items = items;
  if (!copy)
    return list->n < LIST_MAX ? -ENOMEM : -E2BIG;
  memcpy(copy, message, size);
  list->items[list->n++] = (ProtobufCBinaryData){.len = size, .data = copy};
  return 0;
}

static void list_free(List *list) {
  for (size_t i = 0; i < list->n; i++)
    free(list->items[i].data);
  free(list->items);
}

static int collect_links(const char *name, TunRecord *record, uint8_t hardware[sizeof(struct sockaddr)]) {
  struct ifreq request = {0};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  memcpy(request.ifr_name, name, strnlen(name, IFNAMSIZ - 1));
  if (ioctl(fd, SIOCGIFMTU, &request) == 0)
    record->has_mtu = true, record->mtu = (uint32_t)request.ifr_mtu;
  if (ioctl(fd, SIOCGIFFLAGS, &request) == 0)
    record->has_up = true, record->up = (request.ifr_flags & IFF_UP) != 0;
  if (record->flags & IFF_TAP && ioctl(fd, SIOCGIFHWADDR, &request) == 0) {
    memcpy(hardware, &request.ifr_hwaddr, sizeof request.ifr_hwaddr);
    record->has_hardware = true;
    record->hardware = (ProtobufCBinaryData){.len = sizeof request.ifr_hwaddr, .data = hardware};
  }
  (void)close(fd);
  return 0;
}

static int keep(const struct checkpoint_host *host, uint64_t id, const TunRecord *record) {
  size_t size = tun_record__get_packed_size(record);
  uint8_t *bytes = malloc(size + 1);
  if (!bytes)
    return -ENOMEM;
  (void)tun_record__pack(record, bytes);
  int r = host->record_add(host, id, bytes, size);
  free(bytes);
  return r;
}

static int dump_device(
    const struct checkpoint_host *host, const struct checkpoint_object *o, const struct ifreq *info) {
  TunRecord record = TUN_RECORD__INIT;
  List addresses = {0}, routes = {0};
  uint8_t hardware[sizeof(struct sockaddr)];
  char name[IFNAMSIZ];
  int header = 0, buffer = 0;
  (void)snprintf(name, sizeof name, "%s", info->ifr_name);
  unsigned index = if_nametoindex(name);
  record.name = name;
  record.has_flags = record.has_index = true;
  record.flags = (uint16_t)info->ifr_flags;
  record.index = index;
  record.has_vnet_header = ioctl(o->fd, TUNGETVNETHDRSZ, &header) == 0, record.vnet_header = (uint32_t)header;
  record.has_send_buffer = ioctl(o->fd, TUNGETSNDBUF, &buffer) == 0, record.send_buffer = buffer;
  record.has_owner = record.has_group = true;
  record.owner = read_number(name, "owner", -1);
  record.group = read_number(name, "group", -1);
  int r = collect_links(name, &record, hardware);
  if (r == 0)
    r = rtnl_list(RTM_GETADDR, index, list_add, &addresses);
  if (r == 0)
    r = rtnl_list(RTM_GETROUTE, index, list_add, &routes);
  record.addresses = addresses.items, record.n_addresses = addresses.n;
  record.routes = routes.items, record.n_routes = routes.n;
  if (r == 0)
    r = keep(host, o->id, &record);
  if (r == 0)
    host->log(host, 6, "%s has %zu addresses and %zu routes", name, addresses.n, routes.n);
  list_free(&addresses);
  list_free(&routes);
  return r;
}

static int tun_dump(void *context, const struct checkpoint_object *o) {
  const struct checkpoint_host *host = host_of(context);
  struct ifreq info = {0};
  const TunRecord none = TUN_RECORD__INIT;
  if (!is_tun(o))
    return -ENOTSUP;
  if (ioctl(o->fd, TUNGETIFF, &info) < 0)
    return errno == EBADFD ? keep(host, o->id, &none) : -errno;
  if (is_here(o->fd, info.ifr_name))
    return dump_device(host, o, &info);
  host->log(host, 4, "%s is in another network namespace than the engine", info.ifr_name);
  return -ENOTSUP;
}

/* --- restore --- */

/* A job of an ordinary user's may have what that user may have: a device that is there and theirs, as it is. */
static int check_caller(const struct checkpoint_host *host, const TunRecord *record) {
  if (host->caller == CHECKPOINT_CALLER_TRUSTED || !record->name)
    return 0;
  if (if_nametoindex(record->name) && read_number(record->name, "owner", -1) == (long long)host->caller)
    return 0;
  host->log(host, 3, "only an administrator may have the device %s made (uid %u does not own one of that name)",
      record->name, host->caller);
  return -EPERM;
}

/* With the index that it had, if nobody has that now. */
static int make_device(const struct checkpoint_host *host, int fd, const TunRecord *record, const char *name) {
  struct ifreq request = {.ifr_flags = (short)(record->flags & KEPT_FLAGS)};
  unsigned index = record->index;
  (void)snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  char taken[IF_NAMESIZE];
  if (record->index && !if_indextoname(index, taken))
    (void)ioctl(fd, TUNSETIFINDEX, &index);
  if (ioctl(fd, TUNSETIFF, &request) == 0)
    return 0;
  int e = errno;
  host->log(host, 3, "cannot make the device %s: %s%s", name, strerror(e),
      e == EBUSY ? " (somebody else has one of that name)" : "");
  return -e;
}

static int set_descriptor(int fd, const TunRecord *record) {
  int header = (int)record->vnet_header, buffer = record->send_buffer;
  if (record->has_vnet_header && record->flags & IFF_VNET_HDR && ioctl(fd, TUNSETVNETHDRSZ, &header) < 0)
    return -errno;
  if (record->has_send_buffer && buffer > 0 && ioctl(fd, TUNSETSNDBUF, &buffer) < 0)
    return -errno;
  if (record->has_owner && record->owner >= 0 && ioctl(fd, TUNSETOWNER, (unsigned long)record->owner) < 0)
    return -errno;
  if (record->has_group && record->group >= 0 && ioctl(fd, TUNSETGROUP, (unsigned long)record->group) < 0)
    return -errno;
  if (record->flags & IFF_PERSIST && ioctl(fd, TUNSETPERSIST, 1ul) < 0)
    return -errno;
  return 0;
}

static int set_link(int fd, const TunRecord *record, struct ifreq *request) {
  if (record->has_hardware) {
    if (record->hardware.len != sizeof request->ifr_hwaddr)
      return -EBADMSG;
    memcpy(&request->ifr_hwaddr, record->hardware.data, sizeof request->ifr_hwaddr);
    if (ioctl(fd, SIOCSIFHWADDR, request) < 0)
      return -errno;
  }
  request->ifr_mtu = (int)record->mtu;
  if (record->has_mtu && ioctl(fd, SIOCSIFMTU, request) < 0)
    return -errno;
  if (!record->up)
    return 0;
  if (ioctl(fd, SIOCGIFFLAGS, request) < 0)
    return -errno;
  request->ifr_flags |= IFF_UP;
  return ioctl(fd, SIOCSIFFLAGS, request) < 0 ? -errno : 0;
}

static int set_device(const TunRecord *record, const char *name) {
  struct ifreq request = {0};
  int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
  if (fd < 0)
    return -errno;
  (void)snprintf(request.ifr_name, sizeof request.ifr_name, "%s", name);
  int r = set_link(fd, record, &request);
  (void)close(fd);
  unsigned index = if_nametoindex(name);
  for (size_t i = 0; r == 0 && i < record->n_addresses; i++)
    r = rtnl_add(RTM_NEWADDR, index, record->addresses[i].data, record->addresses[i].len);
  for (size_t i = 0; r == 0 && record->up && i < record->n_routes; i++)
    r = rtnl_add(RTM_NEWROUTE, index, record->routes[i].data, record->routes[i].len);
  return r;
}

static int fill(const struct checkpoint_host *host, int fd, const TunRecord *record) {
  if (!record->name)
    return 0;
  if (!*record->name || strlen(record->name) >= IFNAMSIZ || strchr(record->name, '/') || strchr(record->name, '%'))
    return -EBADMSG;
  int r = check_caller(host, record);
  if (r == 0)
    r = make_device(host, fd, record, record->name);
  if (r < 0 || host->caller != CHECKPOINT_CALLER_TRUSTED)
    return r;
  r = set_descriptor(fd, record);
  return r == 0 ? set_device(record, record->name) : r;
}

static int tun_restore(void *context, const struct checkpoint_object *o, int *ret_fd, uint64_t *ret_offset) {
  const struct checkpoint_host *host = host_of(context);
  const void *bytes;
  size_t size;
  if (!is_tun(o))
    return -ENOTSUP;
  int r = host->record_get(host, o->id, 0, &bytes, &size);
  TunRecord *record = r < 0 ? NULL : tun_record__unpack(NULL, size, bytes);
  if (!record)
    return r < 0 ? r : -EBADMSG;
  int fd = open(TUN_PATH, (o->flags & O_ACCMODE) | O_CLOEXEC);
  r = fd < 0 ? -errno : fill(host, fd, record);
  tun_record__free_unpacked(record, NULL);
  if (r < 0 && fd >= 0)
    (void)close(fd);
  if (r == 0)
    *ret_fd = fd;
  return r;
}

static int tun_init(const struct checkpoint_host *host, void **ret_context) {
  *ret_context = (void *)host;
  return 0;
}

CHECKPOINT_PLUGIN = {
    CHECKPOINT_PLUGIN_HEADER("tun", "1", "Tunnels: /dev/net/tun with its devices, addresses and routes"),
    .flags = CHECKPOINT_PLUGIN_EXPLAINS,
    .kinds = CHECKPOINT_KIND_FILE,
    .init = tun_init,
    .dump = tun_dump,
    .restore = tun_restore,
};
