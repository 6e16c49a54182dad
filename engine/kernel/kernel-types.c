/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "kernel-types.h"
#include "kernel-memo.h"
#include <fcntl.h>
#include <linux/btf.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct KernelTypes {
  KernelMemo *memo;
  char *text; /* the file; NULL: not looked at, since the memo has had all answers so far */
  gsize size;
  bool mapped;
  const char *strings;
  guint32 *types;      /* [id]: where it is in text; [0], void: 0 */
  guint32 n_types;
  GHashTable *structs; /* name: const struct btf_type * */
};

#define NO_CONSTANT G_MININT64

/* What follows a type: once, and for each of its members (Documentation/bpf/btf.rst). */
static const struct {
  unsigned char once, each;
} details[1 << 5] = {
    [BTF_KIND_INT] = {4, 0},
    [BTF_KIND_ARRAY] = {sizeof(struct btf_array), 0},
    [BTF_KIND_STRUCT] = {0, sizeof(struct btf_member)},
    [BTF_KIND_UNION] = {0, sizeof(struct btf_member)},
    [BTF_KIND_ENUM] = {0, sizeof(struct btf_enum)},
    [BTF_KIND_FUNC_PROTO] = {0, sizeof(struct btf_param)},
    [BTF_KIND_VAR] = {4, 0},
    [BTF_KIND_DATASEC] = {0, sizeof(struct btf_var_secinfo)},
    [17] = {4, 0},  /* BTF_KIND_DECL_TAG */
    [19] = {0, 12}, /* BTF_KIND_ENUM64 */
};

static size_t details_size(const struct btf_type *t) {
  guint32 kind = BTF_INFO_KIND(t->info);
  return details[kind].once + (size_t)details[kind].each * BTF_INFO_VLEN(t->info);
}

static bool is_sound(const KernelTypes *t) {
  const struct btf_header *h = (const void *)t->text;
  return t->size <= G_MAXUINT32 && t->size >= sizeof *h && h->magic == BTF_MAGIC && h->hdr_len <= t->size &&
         (guint64)h->hdr_len + h->type_off + h->type_len <= t->size && (guint64)h->hdr_len + h->str_off + h->str_len <= t->size && h->str_len;
}

/* A hundred thousand of them: this is what the looking takes. */
static bool index_types(KernelTypes *t) {
  const struct btf_header *h = (const void *)t->text;
  if (!is_sound(t))
    return false;
  const char *at = t->text + h->hdr_len + h->type_off, *end = at + h->type_len;
  t->strings = t->text + h->hdr_len + h->str_off;
  t->types = g_new(guint32, h->type_len / sizeof(struct btf_type) + 1);
  t->types[t->n_types++] = 0;
  while ((size_t)(end - at) >= sizeof(struct btf_type)) {
    const struct btf_type *one = (const void *)at;
    size_t size = sizeof *one + details_size(one);
    if ((size_t)(end - at) < size)
      return false;
    t->types[t->n_types++] = (guint32)(at - t->text);
    if (BTF_INFO_KIND(one->info) == BTF_KIND_STRUCT && one->name_off)
      (void)g_hash_table_insert(t->structs, (gpointer)(t->strings + one->name_off), (gpointer)one);
    at += size;
  }
  return at == end;
}

/* Mapped since 6.16; else read, a page at a time. */
static bool open_file(KernelTypes *t, const char *path) {
  int fd = open(path, O_RDONLY | O_CLOEXEC);
  struct stat st;
  void *m = fd >= 0 && fstat(fd, &st) == 0 && st.st_size > 0 ? mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0) : MAP_FAILED;
  if (fd >= 0)
    (void)close(fd);
  t->mapped = m != MAP_FAILED;
  if (!t->mapped)
    return g_file_get_contents(path, &t->text, &t->size, NULL);
  t->text = m;
  t->size = (gsize)st.st_size;
  return true;
}

static void forget_file(KernelTypes *t) {
  g_clear_pointer(&t->structs, g_hash_table_unref);
  g_clear_pointer(&t->types, g_free);
  if (t->mapped)
    (void)munmap(t->text, t->size);
  else
    g_free(t->text);
  t->text = NULL;
  t->mapped = false;
  t->n_types = 0;
}

static bool look_at_file(KernelTypes *t) {
  if (t->text)
    return true;
  t->structs = g_hash_table_new(g_str_hash, g_str_equal);
  if (open_file(t, "/sys/kernel/btf/vmlinux") && index_types(t))
    return true;
  forget_file(t);
  return false;
}

KernelTypes *kernel_types_open(void) {
  if (g_getenv("CHECKPOINTD_NO_KERNEL_TYPES"))
    return NULL;
  g_autoptr(KernelTypes) t = g_new0(KernelTypes, 1);
  t->memo = kernel_memo_open();
  return !kernel_memo_is_empty(t->memo) || look_at_file(t) ? g_steal_pointer(&t) : NULL;
}

void kernel_types_free(KernelTypes *t) {
  if (!t)
    return;
  forget_file(t);
  kernel_memo_close(t->memo);
  g_free(t);
}

static const struct btf_type *type_at(const KernelTypes *t, guint32 id) {
  return id && id < t->n_types ? (const void *)(t->text + t->types[id]) : NULL;
}

/* Without typedefs and qualifiers. */
static const struct btf_type *plain(const KernelTypes *t, guint32 id) {
  const struct btf_type *one = type_at(t, id);
  for (int depth = 0; one && depth < 32; depth++) {
    guint32 kind = BTF_INFO_KIND(one->info);
    if (kind != BTF_KIND_TYPEDEF && kind != BTF_KIND_CONST && kind != BTF_KIND_VOLATILE && kind != BTF_KIND_RESTRICT && kind != 18 /* TYPE_TAG */)
      return one;
    one = type_at(t, one->type);
  }
  return NULL;
}

static bool is_group(const struct btf_type *t) {
  return t && (BTF_INFO_KIND(t->info) == BTF_KIND_STRUCT || BTF_INFO_KIND(t->info) == BTF_KIND_UNION);
}

/* The offset in bits and the type of a member; -1: none. Members of nameless structures and unions are their owner's. */
static gint64 find_member(const KernelTypes *t, const struct btf_type *in, const char *name, size_t length, guint32 *ret_type) {
  const struct btf_member *m = (const void *)(in + 1);
  for (guint32 i = 0; i < BTF_INFO_VLEN(in->info); i++) {
    gint64 at = BTF_INFO_KFLAG(in->info) ? BTF_MEMBER_BIT_OFFSET(m[i].offset) : m[i].offset;
    const char *its = t->strings + m[i].name_off;
    *ret_type = m[i].type;
    if (strlen(its) == length && strncmp(its, name, length) == 0)
      return at;
    const struct btf_type *inner = *its ? NULL : plain(t, m[i].type);
    gint64 deeper = is_group(inner) ? find_member(t, inner, name, length, ret_type) : -1;
    if (deeper >= 0)
      return at + deeper;
  }
  return -1;
}

static gint64 find_offset(const KernelTypes *t, const char *structure, const char *member) {
  const struct btf_type *in = g_hash_table_lookup(t->structs, structure);
  gint64 bits = 0;
  for (const char *name = member; name; name = strchr(name, '.') ? strchr(name, '.') + 1 : NULL) {
    guint32 type = 0;
    gint64 at = is_group(in) ? find_member(t, in, name, strcspn(name, "."), &type) : -1;
    if (at < 0)
      return -1;
    bits += at;
    in = plain(t, type);
  }
  return bits % 8 ? -1 : bits / 8;
}

static gint64 find_size(const KernelTypes *t, const char *structure, const char *unused) {
  (void)unused;
  const struct btf_type *one = g_hash_table_lookup(t->structs, structure);
  return one ? one->size : 0;
}

/* Each name is there once, so that only numbers need be compared; 0: it is not. */
static guint32 find_name(const KernelTypes *t, const char *name) {
  const struct btf_header *h = (const void *)t->text;
  g_autofree char *wanted = g_strdup_printf("%c%s", 1, name);
  size_t size = strlen(wanted) + 1;
  wanted[0] = '\0';
  const char *at = memmem(t->strings, h->str_len, wanted, size);
  return at ? (guint32)(at + 1 - t->strings) : 0;
}

static gint64 find_function(const KernelTypes *t, const char *name, const char *unused) {
  (void)unused;
  guint32 wanted = find_name(t, name);
  for (guint32 i = 1; wanted && i < t->n_types; i++) {
    const struct btf_type *one = type_at(t, i);
    if (one->name_off == wanted && BTF_INFO_KIND(one->info) == BTF_KIND_FUNC)
      return i;
  }
  return 0;
}

static gint64 find_constant(const KernelTypes *t, const char *name, const char *unused) {
  (void)unused;
  for (guint32 i = 1; i < t->n_types; i++) {
    const struct btf_type *one = type_at(t, i);
    const struct btf_enum *e = (const void *)(one + 1);
    for (guint32 k = 0; BTF_INFO_KIND(one->info) == BTF_KIND_ENUM && k < BTF_INFO_VLEN(one->info); k++)
      if (strcmp(t->strings + e[k].name_off, name) == 0)
        return e[k].val;
  }
  return NO_CONSTANT;
}

/* By the memo, or by the file, which the memo then knows. */
static gint64 answer(const KernelTypes *t, const char *kind, const char *name, const char *more, gint64 nothing,
    gint64 (*find)(const KernelTypes *t, const char *name, const char *more)) {
  gint64 result = nothing;
  g_autofree char *question = g_strdup_printf("%s %s %s", kind, name, more);
  if (kernel_memo_get(t->memo, question, &result) || !look_at_file((KernelTypes *)(uintptr_t)t))
    return result;
  result = find(t, name, more);
  kernel_memo_put(t->memo, question, result);
  return result;
}

int kernel_types_offset(const KernelTypes *t, const char *structure, const char *member) {
  return (int)answer(t, "offset", structure, member, -1, find_offset);
}

guint32 kernel_types_size(const KernelTypes *t, const char *structure) {
  return (guint32)answer(t, "size", structure, "", 0, find_size);
}

guint32 kernel_types_function(const KernelTypes *t, const char *name) {
  return (guint32)answer(t, "function", name, "", 0, find_function);
}

gint64 kernel_types_constant(const KernelTypes *t, const char *name, gint64 otherwise) {
  gint64 value = answer(t, "constant", name, "", NO_CONSTANT, find_constant);
  return value == NO_CONSTANT ? otherwise : value;
}
