/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* kinship.h against what clone(2), unshare(2) and the end of processes do: trees come by chance, as they would in the kernel; the
 * answer is carried out by the same rules, and gives the same tree, or is a refusal that names two tasks. */
#include "kinship.h"
#include <sched.h>
#include <signal.h>
#include <string.h>

#define MAX_TASKS 40

typedef struct Life {
  int parent; /* index; -1: the root */
  bool alive;
  guint32 ids[SHARE_KINDS];
} Life;

typedef struct World {
  Life lives[MAX_TASKS];
  int n;
  guint32 last_id;
} World;

static int spawn(World *w, int maker, guint64 flags) {
  Life *l = &w->lives[w->n];
  *l = (Life){.parent = maker, .alive = true};
  if (maker >= 0 && flags & CLONE_PARENT)
    l->parent = w->lives[maker].parent;
  for (int k = 0; k < SHARE_KINDS; k++)
    l->ids[k] = maker >= 0 && flags & share_flag((ShareKind)k) ? w->lives[maker].ids[k] : ++w->last_id;
  return w->n++;
}

static void leave(World *w, int i, guint64 flags) {
  for (int k = 0; k < SHARE_KINDS; k++)
    if (flags & share_flag((ShareKind)k))
      w->lives[i].ids[k] = ++w->last_id;
}

/* Its children go to the root, which is a subreaper. */
static void end(World *w, int i) {
  w->lives[i].alive = false;
  for (int k = 0; k < w->n; k++)
    if (w->lives[k].parent == i)
      w->lives[k].parent = 0;
}

static int any_alive(const World *w, GRand *rand) {
  for (;;) {
    int i = g_rand_int_range(rand, 0, w->n);
    if (w->lives[i].alive)
      return i;
  }
}

static guint64 any_flags(GRand *rand) {
  guint64 flags = 0;
  for (int k = SHARE_FILES; k < SHARE_KINDS; k++)
    flags |= g_rand_int_range(rand, 0, 3) == 0 ? share_flag((ShareKind)k) : 0;
  if (g_rand_int_range(rand, 0, 5) == 0)
    flags |= CLONE_VM | (g_rand_boolean(rand) ? CLONE_SIGHAND : 0);
  return flags;
}

static void make_world(World *w, GRand *rand) {
  *w = (World){.n = 0};
  (void)spawn(w, -1, 0);
  for (int step = g_rand_int_range(rand, 3, MAX_TASKS - 1); step > 0; step--) {
    int what = g_rand_int_range(rand, 0, 10), who = any_alive(w, rand);
    if (what < 7)
      (void)spawn(w, who, any_flags(rand) | (who && g_rand_int_range(rand, 0, 5) == 0 ? CLONE_PARENT : 0));
    else if (what < 9)
      leave(w, who, any_flags(rand) & ~(guint64)(CLONE_VM | CLONE_SIGHAND));
    else if (who)
      end(w, who);
  }
}

static Kinship *describe(const World *w) {
  Kinship *all = kinship_new();
  g_autoptr(GArray) queue = g_array_new(FALSE, FALSE, sizeof(int)); /* parents before children */
  int root = 0;
  g_array_append_val(queue, root);
  for (guint at = 0; at < queue->len; at++) {
    int i = g_array_index(queue, int, at);
    const Life *l = &w->lives[i];
    Kin *k = kinship_add(all, i + 1, l->parent < 0 ? NULL : kinship_find(all, l->parent + 1));
    k->sid = 1;
    memcpy(k->ids, l->ids, sizeof k->ids);
    for (int c = 0; c < w->n; c++)
      if (w->lives[c].alive && w->lives[c].parent == i)
        g_array_append_val(queue, c);
  }
  return all;
}

/* What is said is done: everybody's tables, as the kernel would give them. */
static void carry_out(World *w, const Kin *k, int *made_as) {
  int me = made_as[k->pid];
  for (guint i = 0; i < k->makes->len; i++) {
    const Kin *child = k->makes->pdata[i];
    g_assert_true(child->maker == k);
    g_assert_true(!(child->clone_flags & CLONE_SIGHAND) || child->clone_flags & CLONE_VM);
    leave(w, me, child->unshare_before);
    made_as[child->pid] = spawn(w, me, child->clone_flags | (child->adopted ? CLONE_PARENT : 0));
    carry_out(w, child, made_as);
  }
  leave(w, me, k->unshare_last);
}

static void compare(const World *was, const World *is, const int *made_as) {
  for (int a = 0; a < was->n; a++)
    for (int b = 0; was->lives[a].alive && b < was->n; b++) {
      if (!was->lives[b].alive)
        continue;
      const Life *x = &is->lives[made_as[a + 1]], *y = &is->lives[made_as[b + 1]];
      g_assert_true(was->lives[b].parent != a || y->parent == made_as[a + 1]);
      for (int k = 0; k < SHARE_KINDS; k++)
        g_assert_true((was->lives[a].ids[k] == was->lives[b].ids[k]) == (x->ids[k] == y->ids[k]));
    }
}

static void test_random(void) {
  int refused = 0, trees = 1500;
  GRand *rand = g_rand_new_with_seed(1);
  for (int i = 0; i < trees; i++) {
    World was, is = {.n = 0};
    int made_as[MAX_TASKS + 1] = {0};
    make_world(&was, rand);
    g_autoptr(Kinship) all = describe(&was);
    KinshipTrouble trouble;
    if (!kinship_solve(all, &trouble)) {
      refused++;
      g_assert_true(trouble.kin && trouble.other);
      continue;
    }
    made_as[1] = spawn(&is, -1, 0);
    carry_out(&is, all->all->pdata[0], made_as);
    compare(&was, &is, made_as);
  }
  g_rand_free(rand);
  g_test_message("%d of %d refused", refused, trees);
  g_assert_cmpint(refused, <, trees / 10);
}

/* Of memory there is no way past somebody who has called execve(2). */
static void test_between(void) {
  World w = {.n = 0};
  int root = spawn(&w, -1, 0), between = spawn(&w, root, CLONE_VM);
  (void)spawn(&w, between, CLONE_VM);
  w.lives[between].ids[SHARE_MEMORY] = ++w.last_id;
  g_autoptr(Kinship) all = describe(&w);
  KinshipTrouble trouble;
  g_assert_false(kinship_solve(all, &trouble));
  g_assert_cmpint(trouble.kind, ==, SHARE_MEMORY);
  g_assert_cmpint(trouble.kin->pid, ==, 3);
  g_assert_cmpint(trouble.other->pid, ==, 1);
}

/* Nothing is looked for where nothing is shared. */
static void test_ordinary(void) {
  World w = {.n = 0};
  int root = spawn(&w, -1, 0);
  (void)spawn(&w, spawn(&w, root, 0), 0);
  g_autoptr(Kinship) all = describe(&w);
  KinshipTrouble trouble;
  g_assert_true(kinship_solve(all, &trouble));
  g_assert_false(all->shares);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/kinship/ordinary", test_ordinary);
  g_test_add_func("/kinship/between", test_between);
  g_test_add_func("/kinship/random", test_random);
  return g_test_run();
}
