/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* The build id of a program or library (NT_GNU_BUILD_ID, see elf(5)): whether a file that is mapped is the one that was
 * mapped when its pages were left out of the images. The file may be anything: nothing in it is believed. */

#include "internal.h"
#include <elf.h>
#include <fcntl.h>

#define MAX_HEADERS 64
#define MAX_NOTES 4096
#define MAX_ID 64

typedef struct Segment {
  guint64 offset, size;
} Segment;

static bool read_at(int fd, void *buffer, size_t size, guint64 offset) {
  return offset <= G_MAXINT64 && pread(fd, buffer, size, (off_t)offset) == (ssize_t)size;
}

/* The note segments of a 64-bit file; their number. */
static size_t note_segments(int fd, Segment segments[MAX_HEADERS]) {
  Elf64_Ehdr elf;
  Elf64_Phdr headers[MAX_HEADERS];
  size_t n = 0;
  if (!read_at(fd, &elf, sizeof elf, 0) || memcmp(elf.e_ident, ELFMAG, SELFMAG) != 0 ||
      elf.e_ident[EI_CLASS] != ELFCLASS64 || elf.e_phentsize != sizeof(Elf64_Phdr) || elf.e_phnum > MAX_HEADERS ||
      !read_at(fd, headers, elf.e_phnum * sizeof *headers, elf.e_phoff))
    return 0;
  for (size_t i = 0; i < elf.e_phnum; i++)
    if (headers[i].p_type == PT_NOTE)
      segments[n++] = (Segment){headers[i].p_offset, headers[i].p_filesz};
  return n;
}

static size_t find_id(const guint8 *notes, size_t size, guint8 id[MAX_ID]) {
  size_t at = 0;
  while (at + sizeof(Elf64_Nhdr) <= size) {
    Elf64_Nhdr note;
    memcpy(&note, notes + at, sizeof note);
    size_t name = at + sizeof note, text = name + (((size_t)note.n_namesz + 3) & ~3UL);
    size_t next = text + (((size_t)note.n_descsz + 3) & ~3UL);
    if (next > size)
      return 0;
    if (note.n_type == NT_GNU_BUILD_ID && note.n_namesz == 4 && memcmp(notes + name, "GNU", 4) == 0 &&
        note.n_descsz > 0 && note.n_descsz <= MAX_ID) {
      memcpy(id, notes + text, note.n_descsz);
      return note.n_descsz;
    }
    at = next;
  }
  return 0;
}

size_t build_id_read(int local, guint32 **ret_words) {
  FdPath path = fd_path(local);
  _cleanup_fd_ int fd = open(path.text, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
  Segment segments[MAX_HEADERS];
  size_t n_segments = fd < 0 ? 0 : note_segments(fd, segments), n = 0;
  guint8 notes[MAX_NOTES], id[MAX_ID] = {0};
  for (size_t i = 0; i < n_segments && !n; i++)
    if (segments[i].size <= sizeof notes && read_at(fd, notes, segments[i].size, segments[i].offset))
      n = find_id(notes, segments[i].size, id);
  if (!n)
    return 0;
  size_t words = (n + 3) / 4;
  *ret_words = g_memdup2(id, words * 4);
  return words;
}
