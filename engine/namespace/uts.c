/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "uts.h"
#include "ns-visit.h"
#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <unistd.h>

bool uts_collect(const NsEntry *entry, NsImage *image, GError **error) {
  struct utsname names;
  NsVisit visit;
  int r = ns_visit_begin(&visit, CLONE_NEWUTS, entry->fd);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot look into the uts namespace of pid %d", (int)entry->pid);
  (void)uname(&names);
  ns_visit_end(&visit);
  image->uts = malloc(sizeof *image->uts);
  utsns_entry__init(image->uts);
  image->uts->nodename = strdup(names.nodename);
  image->uts->domainname = strdup(names.domainname);
  return true;
}

bool uts_make(const NsImage *image, NsEntry *entry, GError **error) {
  const UtsnsEntry *e = image->uts;
  NsVisit visit;
  int r = ns_visit_new(&visit, CLONE_NEWUTS, &entry->fd);
  if (r < 0)
    return engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, -r, "Cannot make a uts namespace");
  bool ok = sethostname(e->nodename, strlen(e->nodename)) == 0 && setdomainname(e->domainname, strlen(e->domainname)) == 0;
  r = errno;
  ns_visit_end(&visit);
  return ok || engine_fail_errno(error, ENGINE_ERROR_CODE__FAILED, r, "Cannot give a uts namespace its names");
}
