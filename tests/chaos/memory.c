/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "chaos.h"
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define PAGES_MAX 24

/* Each page begins with a word that says what was written to it last; 0 is a page that was never touched. */
typedef struct Mapping {
  uint8_t *start; /* NULL: none */
  uint32_t pages, id;
  bool is_shared; /* with whom was forked: its words never change */
  bool there[PAGES_MAX], readable[PAGES_MAX], writable[PAGES_MAX];
  uint64_t word[PAGES_MAX];
} Mapping;

static Mapping mappings[N_MAPPINGS];

static uint64_t word_of(const Mapping *m, uint32_t page) {
  return ((uint64_t)m->id << 32 | page) * 2654435761u + 1;
}

static void write_page(Mapping *m, uint32_t page, uint64_t word) {
  memcpy(m->start + (size_t)page * PAGE, &word, sizeof word);
  memcpy(m->start + (size_t)page * PAGE + PAGE - 8, &word, sizeof word);
  m->word[page] = word;
}

/* A file of the directory, with other bytes than zeros; without a name half of the time. */
static int backing(const Mapping *m, uint64_t *r) {
  char path[300];
  (void)snprintf(path, sizeof path, "%s/map-%u", shared->directory, m->id);
  int fd = open(path, O_CREAT | O_EXCL | O_RDWR | O_CLOEXEC, 0600);
  must(fd >= 0 && ftruncate(fd, (off_t)m->pages * PAGE) == 0, "%s: %s", path, strerror(errno));
  if (draw(r) % 2)
    (void)unlink(path);
  return fd;
}

void memory_create(uint64_t *r) {
  Mapping *m = &mappings[draw(r) % N_MAPPINGS];
  if (m->start)
    return;
  *m = (Mapping){.pages = 1 + (uint32_t)(draw(r) % PAGES_MAX), .id = ++shared->next_id, .is_shared = draw(r) % 3 == 0};
  int fd = draw(r) % 3 ? -1 : backing(m, r);
  int how = (m->is_shared ? MAP_SHARED : MAP_PRIVATE) | (fd < 0 ? MAP_ANONYMOUS : 0);
  void *p = mmap(NULL, (size_t)m->pages * PAGE, PROT_READ | PROT_WRITE, how, fd, 0);
  must(p != MAP_FAILED, "mmap: %s", strerror(errno));
  m->start = p;
  if (fd >= 0)
    (void)close(fd);
  for (uint32_t i = 0; i < m->pages; i++) {
    m->there[i] = m->readable[i] = m->writable[i] = true;
    if (m->is_shared || draw(r) % 2)
      write_page(m, i, word_of(m, i));
  }
}

static void protect(Mapping *m, uint32_t page, uint64_t *r) {
  static const int ways[] = {PROT_NONE, PROT_READ, PROT_READ | PROT_WRITE, PROT_READ | PROT_EXEC};
  int way = ways[draw(r) % 4];
  must(mprotect(m->start + (size_t)page * PAGE, PAGE, way) == 0, "mprotect: %s", strerror(errno));
  m->readable[page] = way & PROT_READ;
  m->writable[page] = way & PROT_WRITE;
}

static void unmap(Mapping *m, uint32_t page) {
  must(munmap(m->start + (size_t)page * PAGE, PAGE) == 0, "munmap: %s", strerror(errno));
  m->there[page] = m->readable[page] = m->writable[page] = false;
  for (uint32_t i = 0; i < m->pages; i++)
    if (m->there[i])
      return;
  m->start = NULL;
}

static void advise(Mapping *m, uint32_t page, uint64_t *r) {
  static const int advices[] = {MADV_DONTFORK, MADV_DOFORK, MADV_DONTDUMP, MADV_RANDOM, MADV_NORMAL, MADV_MERGEABLE};
  int advice = advices[draw(r) % 6];
  if (advice != MADV_DONTFORK)
    (void)madvise(m->start + (size_t)page * PAGE, PAGE, advice);
}

void memory_change(uint64_t *r) {
  Mapping *m = &mappings[draw(r) % N_MAPPINGS];
  if (!m->start)
    return;
  uint32_t page = (uint32_t)(draw(r) % m->pages);
  if (!m->there[page])
    return;
  switch (draw(r) % 6) {
  case 0:
  case 1:
    if (m->writable[page] && !m->is_shared)
      write_page(m, page, draw(r) | 1);
    break;
  case 2:
    protect(m, page, r);
    break;
  case 3:
    unmap(m, page);
    break;
  case 4:
    advise(m, page, r);
    break;
  case 5:
    if (m->readable[page])
      (void)mlock(m->start + (size_t)page * PAGE, PAGE);
    break;
  }
}

void memory_verify(void) {
  for (int k = 0; k < N_MAPPINGS; k++)
    for (uint32_t i = 0; mappings[k].start && i < mappings[k].pages; i++) {
      const Mapping *m = &mappings[k];
      uint64_t first, last;
      if (!m->readable[i])
        continue;
      memcpy(&first, m->start + (size_t)i * PAGE, 8);
      memcpy(&last, m->start + (size_t)i * PAGE + PAGE - 8, 8);
      must(first == m->word[i] && last == m->word[i], "page %u of mapping %u: %lx and %lx, not %lx", i, m->id,
          (unsigned long)first, (unsigned long)last, (unsigned long)m->word[i]);
    }
}
