/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "catalog.h"
#include "cgroup.pb-c.h"
#include "eventpoll.pb-c.h"
#include "file-lock.pb-c.h"
#include "ghost-file.pb-c.h"
#include "ipc-shm.pb-c.h"
#include "memfd.pb-c.h"
#include "pipe-data.pb-c.h"
#include "remap-file-path.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk-packet.pb-c.h"
#include "tcp-stream.pb-c.h"
#include "timens.pb-c.h"
#include "tty.pb-c.h"
#include <inttypes.h>
#include <stdio.h>

#define MIB ((guint64)1 << 20)

static guint64 pipe_data_extra(const ProtobufCMessage *m) {
  return ((const PipeDataEntry *)m)->bytes;
}

static guint64 sk_packet_extra(const ProtobufCMessage *m) {
  return ((const SkPacketEntry *)m)->length;
}

/* Content in the file itself, padded to four bytes; in newer images it is in a pagemap. */
static guint64 ipc_shm_extra(const ProtobufCMessage *m) {
  const IpcShmEntry *e = (const IpcShmEntry *)m;
  return e->in_pagemaps ? 0 : e->size > G_MAXINT64 ? G_MAXINT64 : (e->size + 3) & ~(guint64)3;
}

static guint64 tcp_stream_extra(const ProtobufCMessage *m) {
  const TcpStreamEntry *e = (const TcpStreamEntry *)m;
  return (guint64)e->inq_len + e->outq_len;
}

/* The limits are far above what CRIU or we ever write and bound what a hostile directory can make us allocate. */
static const ImageKind kinds[IMAGE_N_KINDS] = {
    [IMAGE_INVENTORY] = {"inventory", 0, IMAGE_FRAME_OWN, 0x58313116, NULL, &inventory_entry__descriptor, true,
        .limit = MIB},
    [IMAGE_CHECKPOINT] = {"checkpoint", 0, IMAGE_FRAME_SERVICE, 0x57093306, NULL, &ckpt_envelope__descriptor,
        .limit = 256 * MIB},
    [IMAGE_PSTREE] = {"pstree", 0, IMAGE_FRAME_COMMON, 0x50273030, NULL, &pstree_entry__descriptor, .limit = 64 * MIB},
    [IMAGE_CORE] = {"core-", 'u', IMAGE_FRAME_COMMON, 0x55053847, NULL, &core_entry__descriptor, true,
        .limit = 64 * MIB},
    [IMAGE_IDS] = {"ids-", 'u', IMAGE_FRAME_COMMON, 0x54432030, NULL, &task_kobj_ids_entry__descriptor, true,
        .limit = MIB},
    [IMAGE_MM] = {"mm-", 'u', IMAGE_FRAME_COMMON, 0x57492820, NULL, &mm_entry__descriptor, true, .limit = 128 * MIB},
    [IMAGE_FS] = {"fs-", 'u', IMAGE_FRAME_COMMON, 0x51403912, NULL, &fs_entry__descriptor, true, .limit = MIB},
    [IMAGE_FDINFO] = {"fdinfo-", 'u', IMAGE_FRAME_COMMON, 0x56213732, NULL, &fdinfo_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_PAGEMAP] = {"pagemap-", 'u', IMAGE_FRAME_COMMON, 0x56084025, &pagemap_head__descriptor,
        &pagemap_entry__descriptor, .limit = 512 * MIB},
    [IMAGE_SHMEM_PAGEMAP] = {"pagemap-shmem-", 'u', IMAGE_FRAME_COMMON, 0x56084025, &pagemap_head__descriptor,
        &pagemap_entry__descriptor, .limit = 512 * MIB},
    [IMAGE_FILES] = {"files", 0, IMAGE_FRAME_COMMON, 0x56303138, NULL, &file_entry__descriptor, .limit = 512 * MIB},
    [IMAGE_PIPES_DATA] = {"pipes-data", 0, IMAGE_FRAME_COMMON, 0x56453709, NULL, &pipe_data_entry__descriptor,
        .extra = pipe_data_extra, .limit = 2048 * MIB},
    [IMAGE_FIFO_DATA] = {"fifo-data", 0, IMAGE_FRAME_COMMON, 0x59333054, NULL, &pipe_data_entry__descriptor,
        .extra = pipe_data_extra, .limit = 2048 * MIB},
    [IMAGE_SK_QUEUES] = {"sk-queues", 0, IMAGE_FRAME_COMMON, 0x56264026, NULL, &sk_packet_entry__descriptor,
        .extra = sk_packet_extra, .limit = 2048 * MIB},
    [IMAGE_MEMFD] = {"memfd", 0, IMAGE_FRAME_COMMON, 0x48453499, NULL, &memfd_inode_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_REMAP] = {"remap-fpath", 0, IMAGE_FRAME_COMMON, 0x59133954, NULL, &remap_file_path_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_SECCOMP] = {"seccomp", 0, IMAGE_FRAME_COMMON, 0x64413049, NULL, &seccomp_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_CGROUP] = {"cgroup", 0, IMAGE_FRAME_COMMON, 0x59383330, NULL, &cgroup_entry__descriptor, .nested = true,
        .limit = 64 * MIB},
    [IMAGE_TIMENS] = {"timens-0", 0, IMAGE_FRAME_COMMON, 0x43114433, NULL, &timens_entry__descriptor, .limit = MIB},
    [IMAGE_EVENTPOLL_TFD] = {"eventpoll-tfd", 0, IMAGE_FRAME_COMMON, 0x44433746, NULL, &eventpoll_tfd_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_TTY_INFO] = {"tty-info", 0, IMAGE_FRAME_COMMON, 0x59453036, NULL, &tty_info_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_TTY_DATA] = {"tty-data", 0, IMAGE_FRAME_COMMON, 0x59413026, NULL, &tty_data_entry__descriptor,
        .limit = 256 * MIB},
    [IMAGE_FILE_LOCKS] = {"filelocks", 0, IMAGE_FRAME_COMMON, 0x54323616, NULL, &file_lock_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_IPC_SHM] = {"ipcns-shm-", 'u', IMAGE_FRAME_COMMON, 0x46283044, NULL, &ipc_shm_entry__descriptor,
        .extra = ipc_shm_extra, .limit = 512 * MIB},
    [IMAGE_TCP_STREAM] = {"tcp-stream-", 'x', IMAGE_FRAME_COMMON, 0x51465506, NULL, &tcp_stream_entry__descriptor,
        .extra = tcp_stream_extra, .limit = 1024 * MIB},
    [IMAGE_MOUNTS] = {"mountpoints-", 'u', IMAGE_FRAME_COMMON, 0x55563928, NULL, &mnt_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_UTSNS] = {"utsns-", 'u', IMAGE_FRAME_COMMON, 0x54473203, NULL, &utsns_entry__descriptor, true, .limit = MIB},
    [IMAGE_NETNS] = {"netns-", 'u', IMAGE_FRAME_COMMON, 0x55933752, NULL, &netns_entry__descriptor, true, .limit = MIB},
    [IMAGE_NETDEV] = {"netdev-", 'u', IMAGE_FRAME_COMMON, 0x57373951, NULL, &net_device_entry__descriptor,
        .limit = 64 * MIB},
    [IMAGE_IFADDR] = {"ifaddr-", 'u', IMAGE_FRAME_RAW, .limit = 64 * MIB},
    [IMAGE_ROUTE] = {"route-", 'u', IMAGE_FRAME_RAW, .limit = 256 * MIB},
    [IMAGE_ROUTE6] = {"route6-", 'u', IMAGE_FRAME_RAW, .limit = 256 * MIB},
    [IMAGE_RULE] = {"rule-", 'u', IMAGE_FRAME_RAW, .limit = 64 * MIB},
    [IMAGE_NFTABLES] = {"nftables-", 'u', IMAGE_FRAME_RAW, .limit = 64 * MIB},
    /* larger ones are read piecewise only, and have no digest */
    [IMAGE_GHOST] = {"ghost-file-", 'x', IMAGE_FRAME_COMMON, 0x52583605, &ghost_file_entry__descriptor,
        &ghost_chunk_entry__descriptor, .limit = 16 * MIB},
    [IMAGE_TMPFS] = {"tmpfs-dev-", 'u', IMAGE_FRAME_RAW, .suffix = ".tar.gz", .limit = G_MAXINT64},
    [IMAGE_PAGES] = {"pages-", 'u', IMAGE_FRAME_RAW, .limit = G_MAXINT64},
};

static const ImageKindId record_kinds[RECORD_N_KINDS] = {
    [RECORD_PIPES_DATA] = IMAGE_PIPES_DATA,
    [RECORD_FIFO_DATA] = IMAGE_FIFO_DATA,
    [RECORD_SK_QUEUES] = IMAGE_SK_QUEUES,
    [RECORD_MEMFD] = IMAGE_MEMFD,
    [RECORD_REMAP] = IMAGE_REMAP,
    [RECORD_SECCOMP] = IMAGE_SECCOMP,
    [RECORD_CGROUP] = IMAGE_CGROUP,
    [RECORD_TIMENS] = IMAGE_TIMENS,
    [RECORD_EVENTPOLL_TFD] = IMAGE_EVENTPOLL_TFD,
    [RECORD_TTY_INFO] = IMAGE_TTY_INFO,
    [RECORD_TTY_DATA] = IMAGE_TTY_DATA,
    [RECORD_FILE_LOCKS] = IMAGE_FILE_LOCKS,
    [RECORD_IPC_SHM] = IMAGE_IPC_SHM,
};

const ImageKind *image_kind(ImageKindId id) {
  return &kinds[id];
}

ImageKindId image_kind_of_record(RecordKind kind) {
  return record_kinds[kind];
}

guint64 image_number_of_record(RecordKind kind, const Checkpoint *checkpoint) {
  const TaskKobjIdsEntry *ids = checkpoint->inventory ? checkpoint->inventory->root_ids : NULL;
  return kind == RECORD_IPC_SHM && ids ? ids->ipc_ns_id : 0;
}

char *image_name(char *name, ImageKindId id, guint64 number) {
  const ImageKind *k = &kinds[id];
  int n;
  if (k->numbering == 'u')
    n = snprintf(name, IMAGE_NAME_MAX, "%s%" PRIu64 "%s.img", k->name, number, k->suffix ? k->suffix : "");
  else if (k->numbering == 'x')
    n = snprintf(name, IMAGE_NAME_MAX, "%s%" PRIx64 ".img", k->name, number);
  else
    n = snprintf(name, IMAGE_NAME_MAX, "%s.img", k->name);
  g_assert(n > 0 && n < IMAGE_NAME_MAX);
  return name;
}

bool image_invalid(GError **error, ImageKindId id, guint64 number, const char *format, ...) {
  char name[IMAGE_NAME_MAX];
  va_list ap;
  va_start(ap, format);
  g_autofree char *reason = g_strdup_vprintf(format, ap);
  va_end(ap);
  return engine_fail(error, ENGINE_ERROR_CODE__IMAGE_INVALID, "%s: %s", image_name(name, id, number), reason);
}
