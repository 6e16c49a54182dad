/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Random families in random sessions: what kinship_solve() answers is acted out by the rules of fork(2), CLONE_PARENT,
 * setsid(2) and subreapers, and everybody has to end where he was. */

#include "kinship.h"
#include <signal.h>

enum { FAMILIES = 20000, MOST = 14, FIRST_PID = 100, DEAD_PID = 500 };

typedef struct Life {
  pid_t session;
  const Kin *parent;
  bool made;
} Life;

static Kinship *random_family(GRand *random) {
  Kinship *all = kinship_new();
  int n = g_rand_int_range(random, 1, MOST + 1);
  for (int i = 0; i < n; i++) {
    Kin *parent = NULL;
    do
      parent = i ? all->all->pdata[g_rand_int_range(random, 0, i)] : NULL;
    while (parent && parent->zombie && g_rand_boolean(random));
    Kin *k = kinship_add(all, FIRST_PID + i, parent && !parent->zombie ? parent : i ? all->all->pdata[0] : NULL);
    int what = g_rand_int_range(random, 0, 10);
    /* its own, its parent's, anybody's, or that of somebody who died */
    k->sid = !i || what < 3 ? k->pid
             : what < 6     ? k->parent->sid
             : what < 9     ? (pid_t)(FIRST_PID + g_rand_int_range(random, 0, n))
                            : (pid_t)(DEAD_PID + g_rand_int_range(random, 0, 2));
    k->zombie = i && g_rand_int_range(random, 0, 6) == 0;
    k->exit_signal = g_rand_int_range(random, 0, 8) ? SIGCHLD : 0;
  }
  return all;
}

static Life *life_of(GHashTable *lives, const Kin *k) {
  Life *life = g_hash_table_lookup(lives, k);
  if (!life)
    g_hash_table_insert(lives, (gpointer)k, life = g_new0(Life, 1));
  return life;
}

/* The end of a brief helper: its child goes up to the only one who reaps. */
static const Kin *go_up(GHashTable *lives, const Kin *from, const Kin *reaper) {
  const Kin *k = from;
  while (k && k != reaper)
    k = life_of(lives, k)->parent;
  return k;
}

static void make(GHashTable *lives, GPtrArray *order, Kin *maker, Kin *k) {
  Life *life = life_of(lives, k);
  g_assert_false(life->made);
  life->made = true;
  life->session = life_of(lives, maker)->session;
  life->parent = maker;
  if (k->adopted && maker->brief)
    life->parent = go_up(lives, life_of(lives, maker)->parent, k->parent);
  else if (k->adopted)
    life->parent = life_of(lives, maker)->parent;
  g_ptr_array_add(order, k);
}

static bool is_before_setsid(const Kin *maker, const Kin *k) {
  return maker->setsid && !k->setsid && k->sid != maker->sid;
}

static void act_out(const Kinship *all) {
  g_autoptr(GHashTable) lives = g_hash_table_new_full(NULL, NULL, NULL, g_free);
  g_autoptr(GPtrArray) order = g_ptr_array_new();
  Kin *root = all->all->pdata[0];
  life_of(lives, root)->made = true;
  g_ptr_array_add(order, root);
  for (guint i = 0; i < order->len; i++) {
    Kin *k = order->pdata[i];
    for (int after = 0; after < 2; after++) {
      if (after && k->setsid)
        life_of(lives, k)->session = k->pid;
      for (guint c = 0; c < k->makes->len; c++)
        if (is_before_setsid(k, k->makes->pdata[c]) != after)
          make(lives, order, k, k->makes->pdata[c]);
    }
  }
  for (guint i = 0; i < all->all->len; i++) {
    const Kin *k = all->all->pdata[i];
    const Life *life = life_of(lives, k);
    g_assert_true(life->made);
    g_assert_true(life->parent == k->parent);
    g_assert_cmpint(life->session, ==, k->sid);
    g_assert_true(!k->brief || k->makes->len == 1);
  }
}

static void test_families(void) {
  g_autoptr(GRand) random = g_rand_new_with_seed(42);
  guint solved = 0, brief = 0;
  for (int n = 0; n < FAMILIES; n++) {
    g_autoptr(Kinship) all = random_family(random);
    KinshipTrouble trouble;
    if (!kinship_solve(all, &trouble)) {
      g_assert_nonnull(trouble.kin);
      continue;
    }
    act_out(all);
    solved++;
    for (guint i = 0; i < all->all->len; i++)
      brief += ((Kin *)all->all->pdata[i])->brief;
  }
  g_test_message("%u of %d solved, with %u brief helpers", solved, FAMILIES, brief);
  g_assert_cmpuint(solved, >, FAMILIES / 20);
  g_assert_cmpuint(brief, >, 100);
}

int main(int argc, char **argv) {
  g_test_init(&argc, &argv, NULL);
  g_test_add_func("/adoption/families", test_families);
  return g_test_run();
}
