/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "process-look.h"
#include "kernel-bpf.h"
#include <pthread.h>
#include <string.h>
#include <sys/auxv.h>

#define TASK "task_struct"

/* What the program is given (struct bpf_iter__task_vma, of pointers), and what its first pointer points to (struct bpf_iter_meta). */
enum { GIVEN_META = 0, GIVEN_TASK = 8, GIVEN_VMA = 16 };
enum { META_SEQ = 0, META_NUMBER = 16 };

/* What it writes: the sight, then one for each mapping. */
typedef struct Mapped {
  uint64_t start, flags;
} Mapped;

/* What the text of smaps says of all mappings whose flags the kernel has in the same word. */
typedef struct Meaning {
  uint32_t flags; /* VMF_* */
  int pkey;
} Meaning;

struct ProcessLook {
  int program;
  pthread_mutex_t mutex;
  GHashTable *meanings; /* uint64_t *: Meaning */
  bool gate;            /* the mapping that all have and nobody owns (vsyscall) */
  Meaning gate_meaning;
};

/* --- the program --- */

#define MAX_INSNS 512
#define SIGHT_WORDS ((int)(sizeof(ProcessSight) / 8))
enum { GIVEN = BPF_REG_6, TASK_REG, VMA_REG, SEQ_REG };

typedef struct Code {
  struct bpf_insn insns[MAX_INSNS];
  size_t n;
} Code;

static void put(Code *c, struct bpf_insn i) {
  c->insns[c->n++] = i;
}

static int stack_of(int word) {
  return -8 * (SIGHT_WORDS - word);
}

/* A place in the task, or in what a chain of pointers from there leads to. */
typedef struct Step {
  const char *structure, *member;
} Step;

typedef struct Wanted {
  Step steps[2]; /* all but the last are pointers */
  guint32 size;  /* of the last, in bytes */
  bool optional; /* no kernel without it has it in /proc */
} Wanted;

/* In the order of ProcessSight. */
static const Wanted wanted[] = {
    {{{TASK, "nsproxy"}}, 8},
    {{{TASK, "real_cred"}, {"cred", "user_ns"}}, 8},
    {{{TASK, "thread_pid"}, {"pid", "level"}}, 4}, /* of two with one nsproxy: tells who has unshared its children's pid namespace */
    {{{TASK, "cgroups"}}, 8}, /* a css_set is the same group of all hierarchies */
    {{{TASK, "personality"}}, 4},
    {{{TASK, "loginuid"}}, 4, true},
    {{{TASK, "signal"}, {"signal_struct", "oom_score_adj"}}, 2},
    {{{TASK, "mm"}, {"mm_struct", "flags"}}, 8}, /* the core dump's filter, among others */
    {{{TASK, "mm"}}, 8},
    {{{TASK, "files"}}, 8},
    {{{TASK, "fs"}}, 8},
    {{{TASK, "mm"}, {"mm_struct", "exe_file"}}, 8},
    {{{TASK, "fs"}, {"fs_struct", "pwd.mnt"}}, 8},
    {{{TASK, "fs"}, {"fs_struct", "pwd.dentry"}}, 8},
    {{{TASK, "fs"}, {"fs_struct", "root.mnt"}}, 8},
    {{{TASK, "fs"}, {"fs_struct", "root.dentry"}}, 8},
};
G_STATIC_ASSERT(G_N_ELEMENTS(wanted) * 8 == sizeof(ProcessSight));

static bool put_wanted(Code *c, const KernelTypes *types, const Wanted *w, int word) {
  put(c, SET(BPF_REG_1, 0));
  put(c, STORE(BPF_REG_10, BPF_REG_1, stack_of(word)));
  put(c, MOVE(BPF_REG_3, TASK_REG));
  for (guint i = 0; i < G_N_ELEMENTS(w->steps) && w->steps[i].structure; i++) {
    bool last = i + 1 == G_N_ELEMENTS(w->steps) || !w->steps[i + 1].structure;
    int at = kernel_types_offset(types, w->steps[i].structure, w->steps[i].member);
    if (at < 0)
      return w->optional;
    put(c, ADD(BPF_REG_3, at));
    put(c, MOVE(BPF_REG_1, BPF_REG_10));
    put(c, ADD(BPF_REG_1, stack_of(word)));
    put(c, SET(BPF_REG_2, last ? w->size : 8));
    put(c, CALL(BPF_FUNC_probe_read_kernel));
    if (!last)
      put(c, LOAD(BPF_REG_3, BPF_REG_10, stack_of(word)));
    if (!last) {
      put(c, SET(BPF_REG_1, 0));
      put(c, STORE(BPF_REG_10, BPF_REG_1, stack_of(word)));
    }
  }
  return true;
}

static void put_write(Code *c, int word, size_t size) {
  put(c, MOVE(BPF_REG_1, SEQ_REG));
  put(c, MOVE(BPF_REG_2, BPF_REG_10));
  put(c, ADD(BPF_REG_2, stack_of(word)));
  put(c, SET(BPF_REG_3, size));
  put(c, CALL(BPF_FUNC_seq_write));
}

static int load_program(const KernelTypes *types) {
  Code c = {.n = 0};
  int start = kernel_types_offset(types, "vm_area_struct", "vm_start"), flags = kernel_types_offset(types, "vm_area_struct", "vm_flags");
  guint32 iterator = kernel_types_function(types, "bpf_iter_task_vma");
  if (start < 0 || flags < 0 || !iterator)
    return -1;
  put(&c, MOVE(GIVEN, BPF_REG_1));
  put(&c, LOAD(TASK_REG, GIVEN, GIVEN_TASK));
  put(&c, LOAD(VMA_REG, GIVEN, GIVEN_VMA));
  size_t jumps[3];
  jumps[0] = c.n;
  put(&c, INSN(BPF_JMP | BPF_JEQ | BPF_K, TASK_REG, 0, 0, 0));
  jumps[1] = c.n;
  put(&c, INSN(BPF_JMP | BPF_JEQ | BPF_K, VMA_REG, 0, 0, 0)); /* the end */
  put(&c, LOAD(BPF_REG_1, GIVEN, GIVEN_META));
  put(&c, LOAD(SEQ_REG, BPF_REG_1, META_SEQ));
  put(&c, LOAD(BPF_REG_1, BPF_REG_1, META_NUMBER));
  jumps[2] = c.n;
  put(&c, INSN(BPF_JMP | BPF_JNE | BPF_K, BPF_REG_1, 0, 0, 0));
  for (int i = 0; i < SIGHT_WORDS; i++)
    if (!put_wanted(&c, types, &wanted[i], i))
      return -1;
  put_write(&c, 0, sizeof(ProcessSight));
  c.insns[jumps[2]].off = (short)(c.n - jumps[2] - 1);
  put(&c, LOAD(BPF_REG_1, VMA_REG, start));
  put(&c, STORE(BPF_REG_10, BPF_REG_1, stack_of(0)));
  put(&c, LOAD(BPF_REG_1, VMA_REG, flags));
  put(&c, STORE(BPF_REG_10, BPF_REG_1, stack_of(1)));
  put_write(&c, 0, sizeof(Mapped));
  for (int i = 0; i < 2; i++)
    c.insns[jumps[i]].off = (short)(c.n - jumps[i] - 1);
  put(&c, SET(BPF_REG_0, 0));
  put(&c, EXIT());
  return bpf_load_iterator(c.insns, c.n, iterator);
}

/* --- what it says --- */

#define CHUNK 16384u /* whole records, less than the kernel's buffer: what is shorter is the last one */

/* Of one thread the kernel begins again behind the end, where more than one read(2) was needed: mappings ascend. */
static bool goes_on(const GByteArray *bytes, const unsigned char *chunk) {
  const Mapped *last = (const Mapped *)(const void *)(bytes->data + bytes->len) - 1;
  return bytes->len < CHUNK || ((const Mapped *)(const void *)chunk)->start > last->start;
}

static GByteArray *run_program(const ProcessLook *look, pid_t pid) {
  int fd = bpf_iterate_task(look->program, pid);
  if (fd < 0)
    return NULL;
  g_autoptr(GByteArray) bytes = g_byte_array_sized_new(4096);
  _Alignas(Mapped) unsigned char chunk[CHUNK];
  ssize_t n;
  while ((n = read(fd, chunk, sizeof chunk)) > 0 && goes_on(bytes, chunk)) {
    g_byte_array_append(bytes, chunk, (guint)n);
    if (n < (ssize_t)sizeof chunk)
      break;
  }
  (void)close(fd);
  return n >= 0 && bytes->len >= sizeof(ProcessSight) ? g_steal_pointer(&bytes) : NULL;
}

/* What is behind the sight. */
static const Mapped *mapped_in(const GByteArray *bytes, guint *ret_n) {
  *ret_n = (bytes->len - (guint)sizeof(ProcessSight)) / sizeof(Mapped);
  return (const Mapped *)(const void *)(bytes->data + sizeof(ProcessSight));
}

static bool is_gate(const ProcVma *v) {
  return strcmp(v->path, "[vsyscall]") == 0;
}

/* Is each mapping of the text one of those, and the other way round? */
static bool are_same(const GArray *vmas, const Mapped *mapped, guint n) {
  guint own = vmas->len && is_gate(&g_array_index(vmas, ProcVma, vmas->len - 1)) ? vmas->len - 1 : vmas->len;
  bool same = own == n;
  for (guint i = 0; same && i < n; i++)
    same = g_array_index(vmas, ProcVma, i).start == mapped[i].start;
  return same;
}

static const Mapped *find_start(const Mapped *mapped, guint n, guint *at, uint64_t start) {
  while (*at < n && mapped[*at].start < start)
    ++*at;
  return *at < n && mapped[*at].start == start ? &mapped[*at] : NULL;
}

/* What was there before and after the text was read, and the same, is what the text is about: the engine's own mappings come and
 * go while it reads of them. */
static void learn(ProcessLook *look, const GArray *vmas, const GByteArray *before, const GByteArray *after) {
  guint n, m, at_n = 0, at_m = 0;
  const Mapped *first = mapped_in(before, &n), *second = mapped_in(after, &m);
  for (guint i = 0; i < vmas->len; i++) {
    const ProcVma *v = &g_array_index(vmas, ProcVma, i);
    Meaning meaning = {v->flags & ~(uint32_t)VMF_SHARED, v->pkey};
    const Mapped *a = find_start(first, n, &at_n, v->start), *b = find_start(second, m, &at_m, v->start);
    if (a && b && a->flags == b->flags && !(v->flags & VMF_HUGETLB)) /* whose pages have sizes */
      g_hash_table_insert(look->meanings, g_memdup2(&a->flags, sizeof a->flags), g_memdup2(&meaning, sizeof meaning));
    look->gate |= is_gate(v);
    look->gate_meaning = is_gate(v) ? meaning : look->gate_meaning;
  }
}

/* The mappings of @pid, as text; what they tell is kept. @before: what the program said. */
static GArray *read_and_learn(ProcessLook *look, pid_t pid, const GByteArray *before, GError **error) {
  GArray *vmas = proc_vmas(pid, error);
  g_autoptr(GByteArray) after = vmas ? run_program(look, pid) : NULL;
  if (after) {
    (void)pthread_mutex_lock(&look->mutex);
    learn(look, vmas, before, after);
    (void)pthread_mutex_unlock(&look->mutex);
  }
  return vmas;
}

static bool translate(const ProcessLook *look, GArray *vmas, const Mapped *mapped, guint n) {
  for (guint i = 0; i < vmas->len; i++) {
    ProcVma *v = &g_array_index(vmas, ProcVma, i);
    const Meaning *m = i < n ? g_hash_table_lookup(look->meanings, &mapped[i].flags) : look->gate ? &look->gate_meaning : NULL;
    if (!m)
      return false;
    v->flags |= m->flags;
    v->pkey = m->pkey;
  }
  return true;
}

static bool translate_locked(ProcessLook *look, GArray *vmas, const Mapped *mapped, guint n) {
  (void)pthread_mutex_lock(&look->mutex);
  bool ok = translate(look, vmas, mapped, n);
  (void)pthread_mutex_unlock(&look->mutex);
  return ok;
}

GArray *process_look_vmas(ProcessLook *look, pid_t pid, ProcessSight *ret_sight, bool *ret_seen, GError **error) {
  g_autoptr(GByteArray) bytes = run_program(look, pid);
  *ret_seen = bytes != NULL;
  if (!bytes)
    return proc_vmas(pid, error);
  memcpy(ret_sight, bytes->data, sizeof *ret_sight);
  guint n;
  const Mapped *mapped = mapped_in(bytes, &n);
  g_autoptr(GArray) vmas = proc_maps(pid, error);
  if (!vmas)
    return NULL;
  if (are_same(vmas, mapped, n) && translate_locked(look, vmas, mapped, n))
    return g_steal_pointer(&vmas);
  return read_and_learn(look, pid, bytes, error);
}

ProcessLook *process_look_new(const KernelTypes *types) {
  g_autoptr(ProcessLook) look = g_new0(ProcessLook, 1);
  (void)pthread_mutex_init(&look->mutex, NULL);
  look->meanings = g_hash_table_new_full(g_int64_hash, g_int64_equal, g_free, g_free);
  look->program = load_program(types);
  if (look->program < 0)
    return NULL;
  g_autoptr(GByteArray) own = run_program(look, getpid());
  g_autoptr(GArray) vmas = own ? read_and_learn(look, getpid(), own, NULL) : NULL;
  return vmas ? g_steal_pointer(&look) : NULL;
}

void process_look_free(ProcessLook *look) {
  if (!look)
    return;
  if (look->program >= 0)
    (void)close(look->program);
  (void)pthread_mutex_destroy(&look->mutex);
  g_hash_table_unref(look->meanings);
  g_free(look);
}
