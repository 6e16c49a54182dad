/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <sys/types.h>

/* What the spawner tells the bus process, one SOCK_SEQPACKET message each. The only
 * thing it can be asked is one more engine: any one-byte message. */
typedef enum SpawnerKind {
  SPAWNER_ENGINE = 1, /* with two descriptors: the engine's socket and its pidfd */
  SPAWNER_FAILED = 2, /* value: errno */
  SPAWNER_EXITED = 3, /* value: the wait status of engine @pid */
  SPAWNER_READY = 4,  /* the first message: the spawner itself is @pid */
} SpawnerKind;

typedef struct SpawnerMessage {
  int kind;
  pid_t pid;
  int value;
} SpawnerMessage;

/* Forks the spawner, which starts @engine_path when asked, until its socket closes.
 * To be called first of all: before any thread, bus connection or lock-down. Returns
 * 0 or a negative errno. */
int spawner_fork(const char *engine_path, int *ret_fd);

/* Connects to the spawner that systemd starts for whoever connects to the socket at
 * @path (spawner-main.c). Returns 0 or a negative errno. */
int spawner_connect(const char *path, int *ret_fd);

/* The spawner's life: starts @engine_path when asked over @fd, which it takes, until
 * that closes. Returns 0 or a negative errno. */
int spawner_serve(const char *engine_path, int fd);
