/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/types.h>

/* What the spawner tells the bus process, one SOCK_SEQPACKET message each. The only
 * thing it can be asked is one more engine: any one-byte message. */
typedef enum SpawnerKind {
  SPAWNER_ENGINE = 1, /* with two descriptors: the engine's socket and its pidfd */
  SPAWNER_FAILED = 2, /* value: errno */
  SPAWNER_EXITED = 3, /* value: the wait status of engine @pid */
} SpawnerKind;

typedef struct SpawnerMessage {
  int kind;
  pid_t pid;
  int value;
} SpawnerMessage;

/* Forks the spawner, which starts @engine_path when asked, until its socket closes.
 * To be called first of all: before any thread, bus connection or lock-down. */
int spawner_start(const char *engine_path, int *ret_fd, pid_t *ret_pid);
