/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The plan that moves descriptors to their numbers: run on a model of a descriptor table, for random tables, every file must
 * end at its number and nothing else stay open. */
#include "program-private.h"
#include "stages.h"
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>

#define TABLE 4096

typedef struct Slot {
  int file; /* 0: closed */
  bool cloexec;
} Slot;

static void run(const Program *p, Slot table[static TABLE]) {
  for (guint i = 0; i < p->ops->len; i++) {
    const Op *op = &g_array_index(p->ops, Op, i);
    int a = (int)op->args[0], b = (int)op->args[1];
    if (op->nr == SYS_dup3) {
      g_assert_cmpint(a, !=, b); /* EINVAL */
      g_assert_cmpint(table[a].file, !=, 0);
      table[b] = (Slot){table[a].file, (op->args[2] & O_CLOEXEC) != 0};
    } else if (op->nr == SYS_fcntl) {
      g_assert_cmpint(table[a].file, !=, 0);
      table[a].cloexec = op->args[2] == FD_CLOEXEC;
    } else {
      g_assert_cmpuint(op->nr, ==, SYS_close_range);
      for (guint64 fd = op->args[0]; fd <= op->args[1] && fd < TABLE; fd++)
        table[fd].file = 0;
    }
  }
}

/* Of what the table begins with. */
static bool is_cloexec(int fd) {
  return fd % 3 != 0;
}

static void check(const FdMove *moves, size_t n, const int *inherited, size_t n_inherited) {
  Slot table[TABLE] = {0}, wanted[TABLE] = {0};
  for (size_t i = 0; i < n_inherited; i++)
    table[inherited[i]] = (Slot){inherited[i] + 1, is_cloexec(inherited[i])};
  for (size_t i = 0; i < n; i++)
    wanted[moves[i].to] = (Slot){moves[i].from + 1, moves[i].cloexec};
  g_autoptr(Program) p = program_new();
  files_plan_moves(p, moves, n);
  run(p, table);
  for (int fd = 0; fd < TABLE; fd++) {
    g_assert_cmpint(table[fd].file, ==, wanted[fd].file);
    if (table[fd].file)
      g_assert_cmpint(table[fd].cloexec, ==, wanted[fd].cloexec);
  }
}

static void test_swap(void) {
  const FdMove moves[] = {{3, 4, false, false}, {4, 3, true, true}};
  const int inherited[] = {0, 1, 2, 3, 4, 9};
  check(moves, 2, inherited, 6);
}

static void test_shift(void) {
  FdMove moves[1000];
  int inherited[1005];
  for (int i = 0; i < 1000; i++)
    moves[i] = (FdMove){i + 5, i, i % 2, is_cloexec(i + 5)};
  for (int i = 0; i < 1005; i++)
    inherited[i] = i;
  check(moves, 1000, inherited, 1005);
  for (int i = 0; i < 1000; i++)
    moves[i] = (FdMove){i, i + 5, i % 3 == 0, false};
  check(moves, 1000, inherited, 1005);
}

/* Those that are at their numbers as they are to be cost nothing. */
static void test_there(void) {
  FdMove moves[1000];
  int inherited[1005];
  for (int i = 0; i < 1005; i++)
    inherited[i] = i;
  for (int i = 0; i < 1000; i++)
    moves[i] = (FdMove){i, i, i % 5 != 0, is_cloexec(i)};
  check(moves, 1000, inherited, 1005);
  for (int i = 0; i < 1000; i++)
    moves[i] = (FdMove){3 * i + 1, 3 * i + 1, true, true};
  g_autoptr(Program) p = program_new();
  files_plan_moves(p, moves, 1000);
  for (guint i = 0; i < p->ops->len; i++)
    g_assert_cmpuint(g_array_index(p->ops, Op, i).nr, ==, SYS_close_range);
}

static void test_random(void) {
  for (guint seed = 0; seed < 2000; seed++) {
    g_autoptr(GRand) rand = g_rand_new_with_seed(seed);
    int n_inherited = g_rand_int_range(rand, 1, 30), n = g_rand_int_range(rand, 0, 30);
    int inherited[30];
    bool taken[64] = {false};
    FdMove moves[30];
    for (int i = 0; i < n_inherited; i++)
      inherited[i] = i;
    int made = 0;
    for (int i = 0; i < n; i++) {
      int to = g_rand_int_range(rand, 0, 40);
      if (taken[to])
        continue;
      taken[to] = true;
      int from = to < n_inherited && g_rand_boolean(rand) ? to : g_rand_int_range(rand, 0, n_inherited);
      moves[made++] = (FdMove){from, to, g_rand_boolean(rand), is_cloexec(from) && g_rand_boolean(rand)};
    }
    check(moves, (size_t)made, inherited, (size_t)n_inherited);
  }
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/fd-moves/swap", test_swap);
  g_test_add_func("/fd-moves/shift", test_shift);
  g_test_add_func("/fd-moves/there", test_there);
  g_test_add_func("/fd-moves/random", test_random);
  return g_test_run();
}
