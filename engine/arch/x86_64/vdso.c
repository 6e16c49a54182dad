/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vdso.h"
#include <elf.h>
#include <string.h>

#define MAX_SYMBOLS 256

static bool in_bounds(size_t size, guint64 offset, guint64 length) {
  return offset <= size && length <= size - offset;
}

/* The tables of the dynamic section, as offsets in the object. */
typedef struct Tables {
  guint64 base; /* address at which it is linked */
  guint64 symbols, strings, strings_size;
} Tables;

static bool read_header(const unsigned char *object, size_t size, Elf64_Ehdr *header) {
  if (size < sizeof *header)
    return false;
  memcpy(header, object, sizeof *header);
  return memcmp(header->e_ident, ELFMAG, SELFMAG) == 0 && header->e_ident[EI_CLASS] == ELFCLASS64 &&
         header->e_machine == EM_X86_64 && header->e_phentsize == sizeof(Elf64_Phdr) &&
         in_bounds(size, header->e_phoff, (guint64)header->e_phnum * sizeof(Elf64_Phdr));
}

static bool read_tables(const unsigned char *object, size_t size, Tables *t) {
  Elf64_Ehdr header;
  Elf64_Phdr ph, dynamic = {0};
  bool load = false;
  if (!read_header(object, size, &header))
    return false;
  *t = (Tables){0};
  for (guint i = 0; i < header.e_phnum; i++) {
    memcpy(&ph, object + header.e_phoff + i * sizeof ph, sizeof ph);
    if (ph.p_type == PT_LOAD && !load) {
      t->base = ph.p_vaddr - ph.p_offset;
      load = true;
    } else if (ph.p_type == PT_DYNAMIC) {
      dynamic = ph;
    }
  }
  if (!load || !in_bounds(size, dynamic.p_offset, dynamic.p_filesz))
    return false;
  for (guint64 at = 0; at + sizeof(Elf64_Dyn) <= dynamic.p_filesz; at += sizeof(Elf64_Dyn)) {
    Elf64_Dyn d;
    memcpy(&d, object + dynamic.p_offset + at, sizeof d);
    if (d.d_tag == DT_SYMTAB)
      t->symbols = d.d_un.d_ptr - t->base;
    else if (d.d_tag == DT_STRTAB)
      t->strings = d.d_un.d_ptr - t->base;
    else if (d.d_tag == DT_STRSZ)
      t->strings_size = d.d_un.d_val;
  }
  return t->symbols && t->strings && in_bounds(size, t->strings, t->strings_size) && t->strings_size &&
         object[t->strings + t->strings_size - 1] == 0;
}

/* How many there are nobody says but a hash table, of which there are two kinds; the strings follow them in every vdso. */
GArray *vdso_symbols(const unsigned char *object, size_t size) {
  Tables t;
  if (!read_tables(object, size, &t))
    return NULL;
  GArray *symbols = g_array_new(FALSE, FALSE, sizeof(VdsoSymbol));
  for (guint i = 1; i < MAX_SYMBOLS; i++) {
    Elf64_Sym s;
    guint64 at = t.symbols + i * sizeof s;
    if (!in_bounds(size, at, sizeof s) || (t.strings > t.symbols && at + sizeof s > t.strings))
      break;
    memcpy(&s, object + at, sizeof s);
    if (s.st_name >= t.strings_size)
      break;
    VdsoSymbol found = {(const char *)object + t.strings + s.st_name, (guint32)(s.st_value - t.base)};
    if (ELF64_ST_TYPE(s.st_info) == STT_FUNC && s.st_shndx != SHN_UNDEF && in_bounds(size, s.st_value - t.base, VDSO_PATCH_SIZE))
      g_array_append_val(symbols, found);
  }
  return symbols;
}

static const VdsoSymbol *find_symbol(const GArray *symbols, const char *name) {
  for (guint i = 0; i < symbols->len; i++)
    if (strcmp(g_array_index(symbols, VdsoSymbol, i).name, name) == 0)
      return &g_array_index(symbols, VdsoSymbol, i);
  return NULL;
}

/* Whether another function begins within the bytes that a jump takes. */
static bool has_room(const GArray *symbols, guint32 offset) {
  for (guint i = 0; i < symbols->len; i++) {
    guint32 other = g_array_index(symbols, VdsoSymbol, i).offset;
    if (other > offset && other < offset + VDSO_PATCH_SIZE)
      return false;
  }
  return true;
}

/* movabs $target, %r11; jmp *%r11: a called function may change that register. */
static void put_jump(unsigned char *at, guint64 target) {
  at[0] = 0x49, at[1] = 0xbb;
  memcpy(at + 2, &target, sizeof target);
  at[10] = 0x41, at[11] = 0xff, at[12] = 0xe3;
}

void vdso_redirect(unsigned char *object, size_t size, const unsigned char *present, size_t present_size, guint64 present_at,
    GArray *ret_patched) {
  g_autofree unsigned char *before = g_memdup2(object, size); /* names are read from it meanwhile */
  g_autoptr(GArray) theirs = vdso_symbols(before, size), ours = vdso_symbols(present, present_size);
  for (guint i = 0; theirs && ours && i < theirs->len; i++) {
    const VdsoSymbol *s = &g_array_index(theirs, VdsoSymbol, i);
    const VdsoSymbol *now = g_str_has_prefix(s->name, "__vdso_") ? find_symbol(ours, s->name) : NULL;
    if (!now || !has_room(theirs, s->offset))
      continue;
    put_jump(object + s->offset, present_at + now->offset);
    if (ret_patched)
      g_array_append_val(ret_patched, s->offset);
  }
}
