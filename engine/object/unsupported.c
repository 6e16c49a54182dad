/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The kind that takes what no other did, and says what it is and what to do about it. */

#include "external.h"
#include "internal.h"
#include <limits.h>
#include <linux/magic.h>
#include <linux/netlink.h>
#include <sys/socket.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>

typedef struct Hint {
  const char *match, *what, *reason, *cure;
} Hint;

static const Hint anon_hints[] = {
    {"[userfaultfd]", "userfaultfd", "memory that is paged by the program itself cannot be brought back", "close it"},
    {"[perf_event]", "perf event", "performance counters belong to this machine and time", "end the measurement"},
    {"bpf-", "BPF object", "BPF programs, maps and links cannot be brought back yet", "close it before the dump"},
    {"[landlock-ruleset]", "Landlock ruleset", "its rules cannot be read back from the kernel", "close it"},
    {"[fscontext]", "file system context", "a mount in the making cannot be read back", "finish the mount first"},
    {"seccomp notify", "seccomp listener", "a seccomp supervisor cannot be brought back yet", "close it"},
    {"kvm", "KVM virtual machine", "virtual machines cannot be brought back", "use the machine's own snapshots"},
    {"sync_file", "GPU fence", "state of a GPU is outside the process", "use the plugin of the GPU's driver"},
    {"dmabuf", "DMA buffer", "state of a device is outside the process", "use the plugin of the device"},
};

/* By address family; what is not listed is named by its number. */
static const struct {
  int family;
  Hint hint;
} family_hints[] = {
    {AF_VSOCK, {NULL, "VSOCK socket", "connections to a host or guest end with it", "close it before the dump"}},
    {AF_ALG, {NULL, "AF_ALG socket", "the kernel keeps the key and the state of its algorithm", "let the program use a library in user space"}},
    {AF_XDP, {NULL, "AF_XDP socket", "its rings are shared with a network device", "let the program use a packet socket"}},
    {AF_CAN, {NULL, "CAN socket", "it belongs to a bus of this machine", "close it before the dump"}},
    {AF_TIPC, {NULL, "TIPC socket", "connections and names of the cluster cannot be read back", "close it before the dump"}},
    {AF_BLUETOOTH, {NULL, "Bluetooth socket", "its connections are in the radio", "close it before the dump"}},
    {AF_RDS, {NULL, "RDS socket", "its connections cannot be read from the kernel", "close it before the dump"}},
    {AF_SMC, {NULL, "SMC socket", "its memory is shared with a device", "let the program use TCP"}},
    {AF_KCM, {NULL, "KCM socket", "a program in the kernel parses its connections", "close it before the dump"}},
    {AF_RXRPC, {NULL, "RxRPC socket", "its calls cannot be read from the kernel", "close it before the dump"}},
    {AF_KEY, {NULL, "PF_KEY socket", "it waits for what the kernel tells once", "close it before the dump"}},
    {AF_PHONET, {NULL, "Phonet socket", "it belongs to a modem", "close it before the dump"}},
    {AF_QIPCRTR, {NULL, "QRTR socket", "it belongs to a modem", "close it before the dump"}},
    {AF_NFC, {NULL, "NFC socket", "it belongs to a device", "close it before the dump"}},
    {AF_LLC, {NULL, "LLC socket", "its connections cannot be read from the kernel", "close it before the dump"}},
    {AF_PPPOX, {NULL, "PPPoX socket", "its session is the kernel's", "close it before the dump"}},
    {AF_IUCV, {NULL, "IUCV socket", "its connections are the hypervisor's", "close it before the dump"}},
};

static bool block_anon(
    Collector *c, const FileProbe *probe, FileEntry *entry, const char *name, GError **error) {
  for (size_t i = 0; i < G_N_ELEMENTS(anon_hints); i++) {
    const Hint *h = &anon_hints[i];
    if (g_str_has_prefix(name, h->match) || (name[0] == '[' && g_str_has_prefix(name + 1, h->match)))
      return collector_block_external(c, EXTERNAL_OTHER, probe, entry, h->what, h->reason, h->cure, error);
  }
  g_autofree char *what = g_strdup_printf("anonymous inode %s", name);
  return collector_block_external(c, EXTERNAL_OTHER, probe, entry, what, "this kind of object is not supported",
      "close it before the dump, or use a plugin for it", error);
}

static bool block_socket(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  int family = -1;
  socklen_t size = sizeof family;
  (void)getsockopt(probe->local, SOL_SOCKET, SO_DOMAIN, &family, &size);
  for (size_t i = 0; i < G_N_ELEMENTS(family_hints); i++) {
    const Hint *h = &family_hints[i].hint;
    if (family_hints[i].family == family)
      return collector_block_external(c, EXTERNAL_OTHER, probe, entry, h->what, h->reason, h->cure, error);
  }
  g_autofree char *what = g_strdup_printf("socket of address family %d", family);
  return collector_block_external(c, EXTERNAL_OTHER, probe, entry, what, "sockets of this family are not supported",
      "close it before the dump, or use a plugin for it", error);
}

/* Devices that programs are known to have open. A minor of ANY stands for all. */
#define ANY UINT_MAX
static const struct {
  unsigned type, maj, min;
  const char *reason, *cure;
} device_hints[] = {
    {S_IFCHR, 1, 11, "how far it has read in the kernel's log is not known to anybody",
        "where it may begin anew: the option external with device:path=/dev/kmsg action=reopen"},
    {S_IFCHR, 1, 1, "it is the machine's memory", "close it before the dump"},
    {S_IFCHR, 10, 200, "its interface and what is queued in it are the kernel's", "use a plugin for it; a tun device that nothing was done with "
                                                                                  "yet can be opened again (action=reopen)"},
    {S_IFCHR, 10, 229, "it is one end of a mounted file system (FUSE), whose requests are in flight",
        "end the file system first (fusermount -u), or checkpoint its users only and close it there"},
    {S_IFCHR, 10, 232, "virtual machines cannot be brought back", "use the machine's own snapshots"},
    {S_IFCHR, 10, 237, "it hands out loop devices, which are the machine's", "close it before the dump"},
    {S_IFCHR, 226, ANY, "state of a GPU is outside the process", "use the plugin of the GPU's driver"},
    {S_IFCHR, 195, ANY, "state of a GPU is outside the process", "use the plugin of the GPU's driver"},
    {S_IFCHR, 116, ANY, "sound is in the card's buffers", "let the program close the card, or play through a sound server"},
    {S_IFCHR, 13, ANY, "input devices are the machine's", "close it before the dump, or open it again there: the option external with "
                                                         "device:path=PATH action=reopen"},
    {S_IFBLK, 7, ANY, "which file is behind a loop device is the machine's to know", "unmount and close it; where it will be there again: the "
                                                                                     "option external with device:path=PATH action=reopen"},
    {S_IFBLK, ANY, ANY, "what is on it is not in the checkpoint", "where it holds the same then: the option external with device:path=PATH "
                                                                 "action=reopen"},
};

static bool block_device(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  unsigned int maj = major(probe->st.st_rdev), min = minor(probe->st.st_rdev);
  g_autofree char *what = g_strdup_printf(
      "%s device %s (%u:%u)", S_ISCHR(probe->st.st_mode) ? "character" : "block", probe->link, maj, min);
  for (size_t i = 0; i < G_N_ELEMENTS(device_hints); i++)
    if ((probe->st.st_mode & S_IFMT) == device_hints[i].type && (device_hints[i].maj == maj || device_hints[i].maj == ANY) &&
        (device_hints[i].min == min || device_hints[i].min == ANY))
      return collector_block_external(c, EXTERNAL_DEVICE, probe, entry, what, device_hints[i].reason, device_hints[i].cure, error);
  return collector_block_external(c, EXTERNAL_DEVICE, probe, entry, what, "the state of a device is outside the process",
      "close it, or use a plugin for it; where its state is worth nothing: the option external with device:path=PATH action=reopen",
      error);
}

static bool block_namespace(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  g_autofree char *what = g_strdup_printf("namespace %s", probe->link);
  return collector_block_external(c, EXTERNAL_OTHER, probe, entry, what,
      "references to namespaces cannot be brought back yet", "close it before the dump", error);
}

static bool unsupported_claims(const FileProbe *probe) {
  return true;
}

static bool unsupported_collect(Collector *c, const FileProbe *probe, FileEntry *entry, GError **error) {
  mode_t type = probe->st.st_mode & S_IFMT;
  if (g_str_has_prefix(probe->link, "anon_inode:"))
    return block_anon(c, probe, entry, probe->link + strlen("anon_inode:"), error);
  if (type == S_IFSOCK)
    return block_socket(c, probe, entry, error);
  if (type == S_IFCHR || type == S_IFBLK)
    return block_device(c, probe, entry, error);
  if (strstr(probe->link, ":[") && probe->link[0] != '/')
    return block_namespace(c, probe, entry, error);
  if (g_str_has_prefix(probe->link, "/secretmem"))
    return collector_block_external(c, EXTERNAL_OTHER, probe, entry, "secret memory", "nobody but the process may read it (memfd_secret(2))",
        "close it before the dump", error);
  return collector_block_external(c, EXTERNAL_OTHER, probe, entry, probe->link, "this kind of file is not supported",
      "close it before the dump", error);
}

const ObjectOps unsupported_ops = {
    .name = "unsupported object",
    .type = FD_TYPES__UND,
    .claims = unsupported_claims,
    .collect = unsupported_collect,
};
