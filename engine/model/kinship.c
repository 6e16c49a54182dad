/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A task shares a table from its birth on, with its maker; of descriptors and directories it may take a copy of its own later
 * (unshare(2)), of memory and signal actions it never can. So what a grandparent and a grandchild share is carried by the one
 * in between, who leaves it when it has made the child; what siblings share by their parent, or one makes the other
 * (CLONE_PARENT). A task may carry several things, one after the other: the one that it was born with first, its own last. */
#include "kinship.h"
#include <sched.h>
#include <signal.h>

#define ENDS_SHARING (CLONE_FILES | CLONE_FS | CLONE_SYSVSEM)

guint32 share_id(const Task *task, ShareKind kind) {
  const TaskKobjIdsEntry *ids = task->ids;
  switch (kind) {
  case SHARE_MEMORY:
    return ids->vm_id;
  case SHARE_SIGHAND:
    return ids->sighand_id;
  case SHARE_FILES:
    return ids->files_id;
  case SHARE_FS:
    return ids->fs_id;
  case SHARE_SYSVSEM:
    return task->extra ? task->extra->sysvsem_id : 0;
  case SHARE_KINDS:
  default:
    return 0;
  }
}

static const struct {
  guint64 flag;
  const char *name;
} kinds[SHARE_KINDS] = {
    [SHARE_MEMORY] = {CLONE_VM, "memory"},
    [SHARE_SIGHAND] = {CLONE_SIGHAND, "signal actions"},
    [SHARE_FILES] = {CLONE_FILES, "descriptor table"},
    [SHARE_FS] = {CLONE_FS, "working directory"},
    [SHARE_SYSVSEM] = {CLONE_SYSVSEM, "list of semaphores to be undone"},
};

guint64 share_flag(ShareKind kind) {
  return kinds[kind].flag;
}

const char *share_name(ShareKind kind) {
  return kinds[kind].name;
}

static void kin_free(void *p) {
  Kin *k = p;
  g_ptr_array_unref(k->makes);
  g_free(k);
}

Kinship *kinship_new(void) {
  Kinship *k = g_new0(Kinship, 1);
  k->all = g_ptr_array_new_with_free_func(kin_free);
  return k;
}

void kinship_free(Kinship *k) {
  if (!k)
    return;
  g_ptr_array_unref(k->all);
  g_free(k);
}

Kin *kinship_add(Kinship *kinship, pid_t pid, Kin *parent) {
  Kin *k = g_new0(Kin, 1);
  k->pid = pid;
  k->parent = k->maker = parent;
  k->exit_signal = SIGCHLD;
  k->makes = g_ptr_array_new();
  for (int i = 0; i < SHARE_KINDS; i++)
    k->owner[i] = k;
  g_ptr_array_add(kinship->all, k);
  if (parent)
    g_ptr_array_add(parent->makes, k);
  return k;
}

Kin *kinship_find(const Kinship *kinship, pid_t pid) {
  for (guint i = 0; pid && i < kinship->all->len; i++)
    if (((Kin *)kinship->all->pdata[i])->pid == pid)
      return kinship->all->pdata[i];
  return NULL;
}

static void set_maker(Kin *k, Kin *maker) {
  (void)g_ptr_array_remove(k->maker->makes, k);
  g_ptr_array_add(maker->makes, k);
  k->maker = maker;
  k->adopted = true;
  k->late = false;
}

static bool is_made_below(const Kin *k, const Kin *above) {
  for (; k; k = k->maker)
    if (k == above)
      return true;
  return false;
}

/* --- sessions --- */

/* Leads its session, or was forked by somebody who is in it or was before setsid(2). */
static bool is_born_into_session(const Kin *k) {
  const Kin *p = k->parent;
  return !p || k->setsid || p->sid == k->sid || (p->setsid && p->parent && p->parent->sid == k->sid);
}

/* Somebody of the same session and parent; clone(2) with CLONE_PARENT gives a child its maker's exit signal, too. */
static Kin *find_maker(const Kinship *all, const Kin *k) {
  for (guint i = 0; i < all->all->len; i++) {
    Kin *m = all->all->pdata[i];
    bool lives = !m->zombie || m->setsid; /* of the dead, the session's leader does this before it ends */
    if (m != k && m->parent == k->parent && m->sid == k->sid && lives && m->exit_signal == k->exit_signal && is_born_into_session(m))
      return m;
  }
  return NULL;
}

/* The leader that died, for a moment. */
static Kin *add_session_helper(Kinship *all, const Kin *k) {
  Kin *h = kinship_add(all, k->sid, k->parent);
  h->helper = h->setsid = true;
  h->sid = h->pid;
  h->exit_signal = k->exit_signal;
  return h;
}

static bool is_below(const Kin *k, const Kin *ancestor) {
  while (k && k != ancestor)
    k = k->parent;
  return k;
}

/* Somebody of the session who descends from the orphan's parent: when a child of that one ends, its own child goes up to the next
 * who reaps (PR_SET_CHILD_SUBREAPER), as the orphan did. */
static Kin *find_cousin(const Kinship *all, const Kin *k) {
  for (guint i = 0; k->exit_signal == SIGCHLD && i < all->all->len; i++) {
    Kin *m = all->all->pdata[i];
    bool lives = !m->zombie || m->setsid;
    if (m != k && m->sid == k->sid && lives && !m->brief && is_born_into_session(m) && is_below(m, k->parent) && !is_made_below(m, k))
      return m;
  }
  return NULL;
}

static Kin *add_brief_helper(Kinship *all, Kin *cousin) {
  Kin *h = kinship_add(all, 0, cousin);
  h->helper = h->brief = true;
  h->sid = cousin->sid;
  h->exit_signal = 0;
  return h;
}

/* An orphan came to its parent from elsewhere, and so to its session. */
static bool solve_sessions(Kinship *all, KinshipTrouble *trouble) {
  guint n = all->all->len;
  for (guint i = 0; i < n; i++)
    ((Kin *)all->all->pdata[i])->setsid = ((Kin *)all->all->pdata[i])->sid == ((Kin *)all->all->pdata[i])->pid;
  for (guint i = 0; i < n; i++) {
    Kin *k = all->all->pdata[i];
    if (is_born_into_session(k))
      continue;
    Kin *maker = find_maker(all, k);
    if (!maker && k->sid && !kinship_find(all, k->sid))
      maker = add_session_helper(all, k);
    Kin *cousin = maker ? NULL : find_cousin(all, k);
    if (cousin)
      maker = add_brief_helper(all, cousin);
    if (!maker) {
      *trouble = (KinshipTrouble){.kin = k};
      return false;
    }
    set_maker(k, maker);
  }
  return true;
}

/* --- sharing --- */

static void find_owners(Kinship *all) {
  for (int kind = 0; kind < SHARE_KINDS; kind++) {
    g_autoptr(GHashTable) first = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < all->all->len; i++) {
      Kin *k = all->all->pdata[i];
      gpointer id = GUINT_TO_POINTER(k->ids[kind]);
      Kin *owner = k->zombie || !id ? k : g_hash_table_lookup(first, id);
      if (!owner)
        g_hash_table_insert(first, id, owner = k);
      k->owner[kind] = owner;
      all->shares |= owner != k;
    }
  }
}

static GPtrArray *members_of(const Kinship *all, const Kin *owner, ShareKind kind) {
  GPtrArray *members = g_ptr_array_new();
  for (guint i = 0; i < all->all->len; i++)
    if (((Kin *)all->all->pdata[i])->owner[kind] == owner)
      g_ptr_array_add(members, all->all->pdata[i]);
  return members;
}

/* May @m make its sibling @k? Where it is in the right session at the time. */
static bool may_make(const Kin *m, const Kin *k) {
  bool session = k->setsid || m->sid == k->sid || (m->setsid && m->parent && m->parent->sid == k->sid);
  return m != k && k->parent && m->parent == k->parent && !m->zombie && m->exit_signal == k->exit_signal && session && !is_made_below(m, k);
}

/* Memory and signal actions go from maker to child only: every other one that shares them is made by one that does. */
static bool connect_to(const GPtrArray *members, Kin *founder, ShareKind kind, Kin **ret_lost) {
  for (guint i = 0; i < members->len; i++) {
    Kin *k = members->pdata[i], *maker = NULL;
    if (k == founder || (k->maker && k->maker->owner[kind] == k->owner[kind]))
      continue;
    for (guint j = 0; j < members->len && !maker; j++)
      maker = may_make(members->pdata[j], k) && is_made_below(members->pdata[j], founder) ? members->pdata[j] : NULL;
    if (!maker) {
      *ret_lost = k;
      return false;
    }
    set_maker(k, maker);
  }
  return true;
}

static bool connect(const Kinship *all, Kin *owner, ShareKind kind, KinshipTrouble *trouble) {
  g_autoptr(GPtrArray) members = members_of(all, owner, kind);
  Kin *first = NULL, *first_lost = NULL, *lost = NULL; /* for the message */
  for (guint i = 0; i < members->len; i++) {
    Kin *k = members->pdata[i];
    if (k->maker && k->maker->owner[kind] == owner)
      continue; /* has it from there */
    if (connect_to(members, k, kind, &lost))
      return true;
    first_lost = first ? first_lost : lost;
    first = first ? first : k;
  }
  *trouble = (KinshipTrouble){.kin = first_lost, .other = first, .kind = kind};
  return false;
}

static bool connect_kind(const Kinship *all, ShareKind kind, KinshipTrouble *trouble) {
  g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
  for (guint i = 0; i < all->all->len; i++) {
    Kin *k = all->all->pdata[i];
    if (k->owner[kind] != k && g_hash_table_add(done, k->owner[kind]) && !connect(all, k->owner[kind], kind, trouble))
      return false;
  }
  return true;
}

/* Which way each thing goes: through all that lie between those that share it. */
static bool route(const Kinship *all, Kin *owner, ShareKind kind, KinshipTrouble *trouble) {
  g_autoptr(GPtrArray) members = members_of(all, owner, kind);
  g_autoptr(GHashTable) below = g_hash_table_new(NULL, NULL); /* Kin -> how many of them were made at or below it */
  bool ok = true;
  for (guint i = 0; i < members->len; i++)
    for (Kin *k = members->pdata[i]; k; k = k->maker)
      g_hash_table_insert(below, k, GUINT_TO_POINTER(GPOINTER_TO_UINT(g_hash_table_lookup(below, k)) + 1));
  for (guint i = 0; i < all->all->len; i++) {
    Kin *k = all->all->pdata[i];
    guint n = GPOINTER_TO_UINT(g_hash_table_lookup(below, k));
    if (!n || n == members->len)
      continue;
    if (k->carries[kind])
      *trouble = (KinshipTrouble){.kin = k, .other = owner, .kind = kind};
    ok &= !k->carries[kind];
    k->carries[kind] = owner;
  }
  return ok;
}

static bool route_all(const Kinship *all, KinshipTrouble *trouble) {
  for (guint i = 0; i < all->all->len; i++)
    memset(((Kin *)all->all->pdata[i])->carries, 0, sizeof ((Kin *)0)->carries);
  bool ok = true;
  for (int kind = 0; kind < SHARE_KINDS; kind++) {
    g_autoptr(GHashTable) done = g_hash_table_new(NULL, NULL);
    for (guint i = 0; i < all->all->len; i++) {
      Kin *k = all->all->pdata[i];
      if (k->owner[kind] != k && g_hash_table_add(done, k->owner[kind]))
        ok &= route(all, k->owner[kind], (ShareKind)kind, trouble);
    }
  }
  return ok;
}

/* --- in which order a task makes its children --- */

typedef struct Timetable {
  Kin *kin;
  GPtrArray *left;         /* Kin, not made yet */
  GPtrArray *order;        /* Kin */
  Kin *now[SHARE_KINDS];   /* owner of what it has at that moment; NULL: a copy that is nobody's yet */
  guint64 leaving;         /* before the next one */
} Timetable;

/* 0: before setsid(2), 1: after it, 2: after its memory. */
static int slot_of(const Kin *k) {
  bool before = k->maker->setsid && !k->setsid && k->sid != k->maker->sid;
  return before ? 0 : k->late ? 2 : 1;
}

static bool is_wanted(const Timetable *t, int kind, const Kin *owner, bool other) {
  for (guint i = 0; i < t->left->len; i++) {
    const Kin *wants = ((Kin *)t->left->pdata[i])->carries[kind];
    if (wants && (wants == owner) != other)
      return true;
  }
  return false;
}

/* Its own comes last: it cannot be left again. */
static bool has_for(const Timetable *t, const Kin *child, int kind) {
  Kin *wants = child->carries[kind], *own = t->kin->owner[kind];
  if (!wants || t->now[kind] == wants)
    return true;
  return !t->now[kind] && (wants != own || !is_wanted(t, kind, own, true)) && (share_flag((ShareKind)kind) & ENDS_SHARING || wants == own);
}

static bool make_next(Timetable *t, int slot) {
  for (guint i = 0; i < t->left->len; i++) {
    Kin *k = t->left->pdata[i];
    bool ready = slot_of(k) == slot;
    for (int kind = 0; ready && kind < SHARE_KINDS; kind++)
      ready = has_for(t, k, kind);
    if (!ready)
      continue;
    k->clone_flags = 0;
    for (int kind = 0; kind < SHARE_KINDS; kind++)
      if (k->carries[kind]) {
        t->now[kind] = k->carries[kind];
        k->clone_flags |= share_flag((ShareKind)kind);
      }
    k->unshare_before = t->leaving;
    t->leaving = 0;
    g_ptr_array_add(t->order, k);
    (void)g_ptr_array_remove_index(t->left, i);
    return true;
  }
  return false;
}

static bool leave_one(Timetable *t) {
  for (int kind = 0; kind < SHARE_KINDS; kind++) {
    guint64 flag = share_flag((ShareKind)kind);
    if (!t->now[kind] || t->now[kind] == t->kin->owner[kind] || !(flag & ENDS_SHARING) || is_wanted(t, kind, t->now[kind], false) ||
        !is_wanted(t, kind, t->now[kind], true))
      continue;
    t->now[kind] = NULL;
    t->leaving |= flag;
    return true;
  }
  return false;
}

static bool has_left(const Timetable *t, int slot) {
  for (guint i = 0; i < t->left->len; i++)
    if (slot_of(t->left->pdata[i]) == slot)
      return true;
  return false;
}

/* NULL, or the first that cannot be made. */
static const Kin *try_order(Timetable *t) {
  for (int slot = 0; slot < 3; slot++)
    while (has_left(t, slot))
      if (!make_next(t, slot) && !leave_one(t))
        return t->left->pdata[0];
  return NULL;
}

static void set_order(Timetable *t) {
  Kin *k = t->kin;
  g_ptr_array_set_size(k->makes, 0);
  for (guint i = 0; i < t->order->len; i++)
    g_ptr_array_add(k->makes, t->order->pdata[i]);
  k->unshare_last = 0;
  for (int kind = 0; kind < SHARE_KINDS; kind++)
    if (t->now[kind] && t->now[kind] != k->owner[kind] && !k->zombie && !k->helper)
      k->unshare_last |= share_flag((ShareKind)kind);
}

/* Where the order does not allow it, children do not wait for memory to share pages of it. */
static bool order_of(Kin *k, KinshipTrouble *trouble) {
  for (int hurry = 0; hurry < 2; hurry++) {
    g_autoptr(GPtrArray) left = g_ptr_array_new(), order = g_ptr_array_new();
    Timetable t = {.kin = k, .left = left, .order = order};
    memcpy(t.now, k->carries, sizeof t.now);
    for (guint i = 0; i < k->makes->len; i++) {
      Kin *child = k->makes->pdata[i];
      child->late = child->late && !hurry && !child->carries[SHARE_MEMORY];
      g_ptr_array_add(left, child);
    }
    const Kin *lost = try_order(&t);
    if (!lost) {
      set_order(&t);
      return true;
    }
    *trouble = (KinshipTrouble){.kin = lost};
    for (int kind = 0; kind < SHARE_KINDS; kind++)
      if (lost->carries[kind] && !has_for(&t, lost, kind))
        trouble->kind = (ShareKind)kind, trouble->other = lost->carries[kind];
  }
  return false;
}

static bool is_solved(const Kinship *all, KinshipTrouble *trouble) {
  if (!route_all(all, trouble))
    return false;
  for (guint i = 0; i < all->all->len; i++) {
    Kin *k = all->all->pdata[i];
    bool own_memory = k->maker && (!k->carries[SHARE_MEMORY] || k->carries[SHARE_MEMORY] == k->owner[SHARE_MEMORY]);
    if (k->maker && !own_memory) { /* it could never leave it */
      *trouble = (KinshipTrouble){.kin = k, .other = k->carries[SHARE_MEMORY], .kind = SHARE_MEMORY};
      return false;
    }
    if (!order_of(k, trouble))
      return false;
  }
  return true;
}

#define MOVES_WORK 300000u /* tasks that are looked at */
#define MOVES_DEPTH 3

static bool shares_any(const Kin *k) {
  for (int kind = 0; kind < SHARE_KINDS; kind++)
    if (k->carries[kind])
      return true;
  return false;
}

/* Memory and signal actions must come from the maker still. */
static bool may_move(const Kin *k, const Kin *m) {
  bool memory = k->maker->owner[SHARE_MEMORY] != k->owner[SHARE_MEMORY] || m->owner[SHARE_MEMORY] == k->owner[SHARE_MEMORY];
  bool actions = k->maker->owner[SHARE_SIGHAND] != k->owner[SHARE_SIGHAND] || m->owner[SHARE_SIGHAND] == k->owner[SHARE_SIGHAND];
  return m != k->maker && memory && actions && may_make(m, k);
}

/* Siblings make each other where their parent cannot give all of them what they need: which ones is tried out. */
static bool solve_by_moves(const Kinship *all, int depth, guint *work) {
  KinshipTrouble ignored;
  g_autoptr(GPtrArray) candidates = g_ptr_array_new();
  for (guint i = 0; i < all->all->len; i++)
    if (((Kin *)all->all->pdata[i])->parent && shares_any(all->all->pdata[i]))
      g_ptr_array_add(candidates, all->all->pdata[i]);
  for (guint i = 0; i < candidates->len; i++)
    for (guint j = 0; j < candidates->len && *work < MOVES_WORK; j++) {
      Kin *k = candidates->pdata[i], *was = k->maker;
      bool adopted = k->adopted, late = k->late;
      if (!may_move(k, candidates->pdata[j]))
        continue;
      set_maker(k, candidates->pdata[j]);
      *work += all->all->len;
      if (is_solved(all, &ignored) || (depth > 1 && solve_by_moves(all, depth - 1, work)))
        return true;
      set_maker(k, was);
      k->adopted = adopted, k->late = late;
    }
  return false;
}

bool kinship_solve(Kinship *all, KinshipTrouble *trouble) {
  *trouble = (KinshipTrouble){0};
  if (!solve_sessions(all, trouble))
    return false;
  find_owners(all);
  if (!all->shares)
    return true;
  if (!connect_kind(all, SHARE_SIGHAND, trouble) || !connect_kind(all, SHARE_MEMORY, trouble))
    return false;
  if (is_solved(all, trouble))
    return true;
  for (int depth = 1; depth <= MOVES_DEPTH; depth++) {
    guint work = 0;
    if (solve_by_moves(all, depth, &work))
      return true;
    (void)is_solved(all, trouble); /* what the moves have left */
  }
  return false;
}
