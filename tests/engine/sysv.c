/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* System V shared memory: one segment with a key that parent and child have attached, one that is removed already and lives
 * with its users, one that is attached for reading only, one whose owner and mode are others. */

#include "subject.h"
#include <signal.h>
#include <sys/ipc.h>
#include <sys/shm.h>
#include <sys/wait.h>

#define SIZE (3 * 4096 + 100)

typedef struct Shared {
  volatile uint32_t beats, asked;
  volatile pid_t child;
  unsigned char rest[SIZE - 12];
} Shared;

static int ids[4];
static Shared *at[4];
static key_t key;

static void fill(unsigned char *bytes, size_t size, unsigned seed) {
  for (size_t i = 0; i < size; i++)
    bytes[i] = (unsigned char)(i * 31 + seed);
}

static void verify(const unsigned char *bytes, size_t size, unsigned seed) {
  for (size_t i = 0; i < size; i++)
    check(bytes[i] == (unsigned char)(i * 31 + seed), "segment %u differs at %zu", seed, i);
}

static struct shmid_ds info(int which) {
  struct shmid_ds ds;
  check(shmctl(ids[which], IPC_STAT, &ds) == 0, "segment %d (id %d): %s", which, ids[which], strerror(errno));
  return ds;
}

static void attach(int which, key_t with_key, int flags) {
  ids[which] = shmget(with_key, SIZE, IPC_CREAT | IPC_EXCL | 0640);
  check_call(ids[which] >= 0);
  at[which] = shmat(ids[which], NULL, 0);
  check_call(at[which] != (void *)-1);
  fill(at[which]->rest, sizeof at[which]->rest, (unsigned)which);
  if (!flags)
    return;
  check_call(shmdt(at[which]) == 0);
  at[which] = shmat(ids[which], NULL, flags);
  check_call(at[which] != (void *)-1);
}

int main(int argc, char **argv) {
  subject_begin(argc, argv);
  key = (key_t)(0x43500000 | (getpid() & 0xffff));
  attach(0, key, 0);
  attach(1, IPC_PRIVATE, 0);
  attach(2, IPC_PRIVATE, SHM_RDONLY);
  attach(3, IPC_PRIVATE, 0);
  check_call(shmctl(ids[1], IPC_RMID, NULL) == 0);
  struct shmid_ds ds = info(3);
  ds.shm_perm.uid = 65534, ds.shm_perm.mode = 0604;
  check_call(shmctl(ids[3], IPC_SET, &ds) == 0);
  pid_t child = fork();
  check_call(child >= 0);
  if (child == 0) {
    check_call(shmdt(at[3]) == 0);
    for (;;) {
      at[0]->beats++;
      if (at[0]->asked)
        at[1]->beats = 4711;
      subject_tick();
    }
  }
  at[0]->child = child;
  while (!at[0]->beats)
    subject_tick();
  subject_ready();
  while (!subject_checking())
    subject_tick();
  uint32_t before = at[0]->beats;
  at[0]->asked = 1;
  check(subject_await(at[0]->beats != before && at[1]->beats == 4711), "the child shares them no longer");
  for (int i = 0; i < 4; i++)
    verify(at[i]->rest, sizeof at[i]->rest, (unsigned)i);
  check(shmget(key, SIZE, 0) == ids[0], "the key leads elsewhere");
  check(info(0).shm_nattch == 2 && info(2).shm_nattch == 2 && info(3).shm_nattch == 1, "the numbers of users are %lu, %lu, %lu",
      (unsigned long)info(0).shm_nattch, (unsigned long)info(2).shm_nattch, (unsigned long)info(3).shm_nattch);
  check(info(1).shm_nattch == 2 && info(1).shm_perm.mode & SHM_DEST, "the removed one would not go with its users");
  check(info(3).shm_perm.uid == 65534 && (info(3).shm_perm.mode & 0777) == 0604, "owner or mode differ");
  check_call(kill(child, SIGKILL) == 0 && waitpid(child, NULL, 0) == child);
  for (int i = 0; i < 4; i++)
    if (i != 1)
      check_call(shmctl(ids[i], IPC_RMID, NULL) == 0);
  return subject_pass();
}
