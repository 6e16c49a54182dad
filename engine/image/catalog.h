/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* The image files we know, one row each: how the file is named, how it begins, which message its entries are, what raw
 * bytes follow an entry and how large a file may be before we refuse to read it. */

#include "checkpoint.h"
#include "error.h"

typedef enum ImageKindId {
  IMAGE_INVENTORY,
  IMAGE_CHECKPOINT, /* ours */
  IMAGE_PSTREE,
  IMAGE_CORE,
  IMAGE_IDS,
  IMAGE_MM,
  IMAGE_FS,
  IMAGE_FDINFO,
  IMAGE_PAGEMAP,
  IMAGE_SHMEM_PAGEMAP,
  IMAGE_FILES,
  IMAGE_PIPES_DATA,
  IMAGE_FIFO_DATA,
  IMAGE_SK_QUEUES,
  IMAGE_MEMFD,
  IMAGE_REMAP,
  IMAGE_SECCOMP,
  IMAGE_CGROUP,
  IMAGE_TIMENS,
  IMAGE_EVENTPOLL_TFD,
  IMAGE_TTY_INFO,
  IMAGE_TTY_DATA,
  IMAGE_FILE_LOCKS,
  IMAGE_IPC_SHM,
  IMAGE_TCP_STREAM,
  IMAGE_MOUNTS,
  IMAGE_UTSNS,
  IMAGE_NETNS,
  IMAGE_NETDEV,
  IMAGE_IFADDR, /* from here in the order of NetRaw */
  IMAGE_ROUTE,
  IMAGE_ROUTE6,
  IMAGE_RULE,
  IMAGE_NFTABLES,
  IMAGE_TMPFS, /* an archive (tar, gzip); the number is that of the device */
  IMAGE_GHOST,
  IMAGE_PAGES,
  IMAGE_N_KINDS
} ImageKindId;

/* What stands before the first entry. */
typedef enum ImageFrame {
  IMAGE_FRAME_COMMON,  /* u32 common magic, u32 magic of the kind */
  IMAGE_FRAME_OWN,     /* u32 magic of the kind alone */
  IMAGE_FRAME_SERVICE, /* u32 service magic, u32 magic of the kind */
  IMAGE_FRAME_RAW,     /* nothing */
} ImageFrame;

#define IMAGE_MAGIC_COMMON 0x54564319u
#define IMAGE_MAGIC_SERVICE 0x55105940u

#define IMAGE_NAME_MAX 48
#define IMAGE_PAGE_SIZE 4096u

typedef struct ImageKind {
  const char *name; /* the part before the number, or all before ".img" */
  char numbering;   /* 'u' decimal, 'x' hexadecimal, 0 none */
  ImageFrame frame;
  guint32 magic;
  const ProtobufCMessageDescriptor *head;  /* message of the first entry where it is another one; else NULL */
  const ProtobufCMessageDescriptor *entry; /* message of the entries */
  bool single;                             /* exactly one entry */
  bool nested;                             /* the message may hold itself: depth is checked before it is unpacked */
  guint64 (*extra)(const ProtobufCMessage *entry); /* raw bytes behind an entry; NULL: none */
  guint64 limit;                                   /* of what is read into memory, in bytes */
  const char *suffix; /* what comes before ".img" behind the number; may be NULL */
} ImageKind;

const ImageKind *image_kind(ImageKindId id);
ImageKindId image_kind_of_record(RecordKind kind);
/* The number in the file's name; 0 for those without. The inventory must be there. */
guint64 image_number_of_record(RecordKind kind, const Checkpoint *checkpoint);
/* "core-12.img" into @name, which holds IMAGE_NAME_MAX bytes; returns @name. */
char *image_name(char *name, ImageKindId id, guint64 number);

/* IMAGE_INVALID "<file name>: <reason>"; returns false. */
bool image_invalid(GError **error, ImageKindId id, guint64 number, const char *format, ...)
    __attribute__((format(printf, 4, 5)));
