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
  bool ia32;
  guint64 base; /* address at which it is linked */
  guint64 symbols, strings, strings_size;
} Tables;

static size_t symbol_size(bool ia32) {
  return ia32 ? sizeof(Elf32_Sym) : sizeof(Elf64_Sym);
}

/* Of either kind, as a 64-bit one. */
static bool read_header(const unsigned char *object, size_t size, Elf64_Ehdr *header, bool *ret_ia32) {
  Elf32_Ehdr h;
  if (size < sizeof *header)
    return false;
  memcpy(header, object, sizeof *header);
  memcpy(&h, object, sizeof h);
  if (memcmp(header->e_ident, ELFMAG, SELFMAG) != 0)
    return false;
  *ret_ia32 = header->e_ident[EI_CLASS] == ELFCLASS32;
  if (*ret_ia32)
    header->e_machine = h.e_machine, header->e_phoff = h.e_phoff, header->e_phnum = h.e_phnum, header->e_phentsize = h.e_phentsize;
  size_t entry = *ret_ia32 ? sizeof(Elf32_Phdr) : sizeof(Elf64_Phdr);
  return (*ret_ia32 ? header->e_machine == EM_386 : header->e_ident[EI_CLASS] == ELFCLASS64 && header->e_machine == EM_X86_64) &&
         header->e_phentsize == entry && in_bounds(size, header->e_phoff, (guint64)header->e_phnum * entry);
}

static Elf64_Phdr read_segment(const unsigned char *at, bool ia32) {
  Elf64_Phdr ph;
  Elf32_Phdr p;
  if (ia32) {
    memcpy(&p, at, sizeof p);
    return (Elf64_Phdr){.p_type = p.p_type, .p_vaddr = p.p_vaddr, .p_offset = p.p_offset, .p_filesz = p.p_filesz};
  }
  memcpy(&ph, at, sizeof ph);
  return ph;
}

static Elf64_Dyn read_dynamic(const unsigned char *at, bool ia32) {
  Elf64_Dyn dyn;
  Elf32_Dyn d;
  if (ia32) {
    memcpy(&d, at, sizeof d);
    return (Elf64_Dyn){d.d_tag, {d.d_un.d_val}};
  }
  memcpy(&dyn, at, sizeof dyn);
  return dyn;
}

static Elf64_Sym read_symbol(const unsigned char *at, bool ia32) {
  Elf64_Sym sym;
  Elf32_Sym s;
  if (ia32) {
    memcpy(&s, at, sizeof s);
    return (Elf64_Sym){.st_name = s.st_name, .st_info = s.st_info, .st_shndx = s.st_shndx, .st_value = s.st_value};
  }
  memcpy(&sym, at, sizeof sym);
  return sym;
}

static bool read_tables(const unsigned char *object, size_t size, Tables *t) {
  Elf64_Ehdr header;
  Elf64_Phdr ph, dynamic = {0};
  bool load = false;
  *t = (Tables){0};
  if (!read_header(object, size, &header, &t->ia32))
    return false;
  for (guint i = 0; i < header.e_phnum; i++) {
    ph = read_segment(object + header.e_phoff + (guint64)i * header.e_phentsize, t->ia32);
    if (ph.p_type == PT_LOAD && !load) {
      t->base = ph.p_vaddr - ph.p_offset;
      load = true;
    } else if (ph.p_type == PT_DYNAMIC) {
      dynamic = ph;
    }
  }
  if (!load || !in_bounds(size, dynamic.p_offset, dynamic.p_filesz))
    return false;
  size_t entry = t->ia32 ? sizeof(Elf32_Dyn) : sizeof(Elf64_Dyn);
  for (guint64 at = 0; at + entry <= dynamic.p_filesz; at += entry) {
    Elf64_Dyn d = read_dynamic(object + dynamic.p_offset + at, t->ia32);
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
    guint64 entry = symbol_size(t.ia32), at = t.symbols + i * entry;
    if (!in_bounds(size, at, entry) || (t.strings > t.symbols && at + entry > t.strings))
      break;
    Elf64_Sym s = read_symbol(object + at, t.ia32);
    if (s.st_name >= t.strings_size)
      break;
    VdsoSymbol found = {(const char *)object + t.strings + s.st_name, (guint32)(s.st_value - t.base)};
    if (ELF64_ST_TYPE(s.st_info) == STT_FUNC && s.st_shndx != SHN_UNDEF && in_bounds(size, s.st_value - t.base, VDSO_PATCH_SIZE(t.ia32)))
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
static bool has_room(const GArray *symbols, guint32 offset, bool ia32) {
  for (guint i = 0; i < symbols->len; i++) {
    guint32 other = g_array_index(symbols, VdsoSymbol, i).offset;
    if (other > offset && other < offset + VDSO_PATCH_SIZE(ia32))
      return false;
  }
  return true;
}

/* What a 32-bit program calls for each system call, too; its other functions, which signal handlers return to, read nothing of
 * the kernel's. */
static bool is_redirected(const char *name, bool ia32) {
  return g_str_has_prefix(name, "__vdso_") || (ia32 && strcmp(name, "__kernel_vsyscall") == 0);
}

/* movabs $target, %r11; jmp *%r11: a called function may change that register. In 32-bit code jmp target. */
static void put_jump(unsigned char *at, guint64 from, guint64 target, bool ia32) {
  guint32 distance = (guint32)(target - from - VDSO_PATCH_SIZE(true));
  if (ia32) {
    at[0] = 0xe9;
    memcpy(at + 1, &distance, sizeof distance);
    return;
  }
  at[0] = 0x49, at[1] = 0xbb;
  memcpy(at + 2, &target, sizeof target);
  at[10] = 0x41, at[11] = 0xff, at[12] = 0xe3;
}

void vdso_redirect(unsigned char *object, size_t size, guint64 at, const unsigned char *present, size_t present_size, guint64 present_at,
    GArray *ret_patched) {
  g_autofree unsigned char *before = g_memdup2(object, size); /* names are read from it meanwhile */
  bool ia32 = size > EI_CLASS && object[EI_CLASS] == ELFCLASS32;
  if (present_size <= EI_CLASS || ia32 != (present[EI_CLASS] == ELFCLASS32))
    return;
  g_autoptr(GArray) theirs = vdso_symbols(before, size), ours = vdso_symbols(present, present_size);
  for (guint i = 0; theirs && ours && i < theirs->len; i++) {
    const VdsoSymbol *s = &g_array_index(theirs, VdsoSymbol, i);
    const VdsoSymbol *now = is_redirected(s->name, ia32) ? find_symbol(ours, s->name) : NULL;
    if (!now || !has_room(theirs, s->offset, ia32))
      continue;
    put_jump(object + s->offset, at + s->offset, present_at + now->offset, ia32);
    if (ret_patched)
      g_array_append_val(ret_patched, s->offset);
  }
}
