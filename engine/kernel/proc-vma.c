/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* /proc/PID/smaps: the only place where the kernel shows what madvise(2) and mlock(2) did to a mapping (VmFlags). */
#include "proc.h"
#include <stdlib.h>
#include <string.h>

static const struct {
  char name[3];
  uint32_t flag;
} vm_flags[] = {
    {"rd", VMF_READ}, {"wr", VMF_WRITE}, {"ex", VMF_EXEC}, {"sh", VMF_SHARED}, {"gd", VMF_GROWSDOWN},
    {"lo", VMF_LOCKED}, {"lf", VMF_LOCKONFAULT}, {"dc", VMF_DONTCOPY}, {"de", VMF_DONTEXPAND}, {"nr", VMF_NORESERVE},
    {"ht", VMF_HUGETLB}, {"dd", VMF_DONTDUMP}, {"hg", VMF_HUGEPAGE}, {"nh", VMF_NOHUGEPAGE}, {"mg", VMF_MERGEABLE},
    {"wf", VMF_WIPEONFORK}, {"io", VMF_IO}, {"pf", VMF_PFNMAP}, {"mm", VMF_MIXEDMAP}, {"mw", VMF_MAYWRITE},
    {"sr", VMF_SEQ}, {"rr", VMF_RAND}, {"um", VMF_UFFD_MISSING}, {"uw", VMF_UFFD_WP}, {"sl", VMF_SEALED},
    {"ss", VMF_SHADOW_STACK}, {"sf", VMF_SYNC}, {"ac", VMF_ACCOUNTABLE}, {"mr", VMF_MAYREAD}, {"ui", VMF_UFFD_MINOR},
    {"dp", VMF_DROPPABLE},
};

/* Older kernels (6.1) have no letters for the flag of MLOCK_ONFAULT: they show "??", as for no other flag that a locked
 * mapping may have. */
static uint32_t parse_flags(const char *p) {
  uint32_t flags = 0;
  bool nameless = false;
  for (; p[0] && p[0] != '\n'; p++) {
    if (p[0] == ' ' || !p[1])
      continue;
    nameless |= p[0] == '?';
    for (size_t i = 0; i < G_N_ELEMENTS(vm_flags); i++)
      if (p[0] == vm_flags[i].name[0] && p[1] == vm_flags[i].name[1]) {
        flags |= vm_flags[i].flag;
        break;
      }
    p++;
  }
  return flags | (nameless && flags & VMF_LOCKED ? VMF_LOCKONFAULT : 0);
}

/* "7f00-7f01 r-xp 00000000 fe:00 1234   /path" */
static void parse_head(const char *line, const char *end, ProcVma *vma) {
  char *p;
  *vma = (ProcVma){.pkey = -1};
  vma->start = strtoull(line, &p, 16);
  vma->end = strtoull(p + 1, &p, 16);
  if (p[4] == 's') /* VM_MAYSHARE; "sh" of VmFlags is only set while it may be written, too */
    vma->flags = VMF_SHARED;
  p += 6; /* " r-xp " */
  vma->offset = strtoull(p, &p, 16);
  vma->dev_major = (uint32_t)strtoul(p, &p, 16);
  vma->dev_minor = (uint32_t)strtoul(p + 1, &p, 16);
  vma->inode = strtoull(p, &p, 10);
  while (p < end && *p == ' ')
    p++;
  vma->path = g_strndup(p, (gsize)(end - p));
}

static void parse_detail(const char *line, ProcVma *vma) {
  if (g_str_has_prefix(line, "VmFlags:"))
    vma->flags |= parse_flags(line + 8);
  else if (g_str_has_prefix(line, "KernelPageSize:"))
    vma->page_kb = strtoull(line + 15, NULL, 10);
  else if (g_str_has_prefix(line, "ProtectionKey:"))
    vma->pkey = (int)strtol(line + 14, NULL, 10);
}

static void vma_clear(void *p) {
  g_free(((ProcVma *)p)->path);
}

static GArray *read_vmas(pid_t pid, const char *file, GError **error) {
  g_autofree char *text = proc_read(pid, file, NULL, error);
  if (!text)
    return NULL;
  GArray *vmas = g_array_new(FALSE, FALSE, sizeof(ProcVma));
  g_array_set_clear_func(vmas, vma_clear);
  for (char *line = text; *line;) {
    char *end = strchr(line, '\n');
    if (!end)
      break;
    bool head = g_ascii_isdigit(*line) || (*line >= 'a' && *line <= 'f');
    if (head) {
      ProcVma vma;
      parse_head(line, end, &vma);
      g_array_append_val(vmas, vma);
    } else if (vmas->len && strchr("VKP", *line)) {
      parse_detail(line, &g_array_index(vmas, ProcVma, vmas->len - 1));
    }
    line = end + 1;
  }
  return vmas;
}

GArray *proc_vmas(pid_t pid, GError **error) {
  return read_vmas(pid, "smaps", error);
}

GArray *proc_maps(pid_t pid, GError **error) {
  return read_vmas(pid, "maps", error);
}
