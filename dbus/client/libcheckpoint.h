/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef LIBCHECKPOINT_H
#define LIBCHECKPOINT_H

/* libcheckpoint: an application checkpoints itself, and hears when somebody else does. See checkpoint(3).
 *
 * Every function may be called from any thread; what it returns belongs to the caller. Functions that can fail return a
 * negative errno and, if asked, a message that names the object and the cure. */

#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

#define CHECKPOINT_VERSION_CURRENT 1 /* of the structures below */

enum {
  CHECKPOINT_END = 1 << 0,            /* the application ends with its checkpoint; else it goes on */
  CHECKPOINT_REPLACE = 1 << 1,        /* an older checkpoint of that name makes room, once this one is complete */
  CHECKPOINT_DURABLE = 1 << 2,        /* the images have reached the disk before the application ends */
  CHECKPOINT_ANY_TARGET = 1 << 3,     /* children with other privileges, too: an administrator is asked */
  CHECKPOINT_NO_INTERACTION = 1 << 4, /* nobody is asked for a password */
  CHECKPOINT_SHELL_JOB = 1 << 5,      /* the terminal's session may lie outside */
};

/* What an application does around its checkpoint. Each may be NULL. They run in the thread that called
 * checkpoint_self() or checkpoint_registration_dispatch(). */
typedef struct checkpoint_hooks {
  size_t size;      /* of the structure: CHECKPOINT_HOOKS_INIT */
  unsigned version; /* CHECKPOINT_VERSION_CURRENT */
  unsigned reserved;
  int (*pre_dump)(void *userdata);      /* flush, drop caches and secrets; a negative errno: not now */
  void (*post_dump)(void *userdata);    /* in the original, when it is over, whether it worked or not */
  void (*post_restore)(void *userdata); /* in the restored process: read the environment again */
  void *userdata;
} checkpoint_hooks;

#define CHECKPOINT_HOOKS_INIT                                                                                          \
  { .size = sizeof(checkpoint_hooks), .version = CHECKPOINT_VERSION_CURRENT }

typedef struct checkpoint_options {
  size_t size;      /* of the structure: CHECKPOINT_OPTIONS_INIT */
  unsigned version; /* CHECKPOINT_VERSION_CURRENT */
  unsigned flags;   /* CHECKPOINT_* */
  const char *name; /* in the store of the service; or NULL and … */
  int directory_fd; /* … an empty directory that the caller may write to; else -1 */
  unsigned reserved;
  uint64_t timeout_usec;  /* freezing and looking at the application may take this long; 0: the service's own */
  const char *bus;        /* address of the bus; NULL: the system bus */
  const char *const *external; /* rules about what leads out of the application, checkpoint-external(5); NULL-terminated, or
                                  NULL: those of the system only */
  checkpoint_hooks hooks; /* of this call */
} checkpoint_options;

#define CHECKPOINT_OPTIONS_INIT                                                                                        \
  {                                                                                                                    \
    .size = sizeof(checkpoint_options), .version = CHECKPOINT_VERSION_CURRENT, .directory_fd = -1,                     \
    .hooks = CHECKPOINT_HOOKS_INIT                                                                                     \
  }

/* Checkpoints the calling process with all its threads and children.
 * 0: done, this is the original.
 * 1: this is the restored process.
 * Negative errno: not done, and the application is as it was. *@ret_message (may be NULL) says why; free() it. After
 * -EREMOTEIO it is not known whether the checkpoint was completed: the service went away in the middle. */
int checkpoint_self(const checkpoint_options *options, char **ret_message);

/* An application that has registered is asked before anybody checkpoints it. */
typedef struct checkpoint_registration checkpoint_registration;

/* @hooks is copied. @bus: as in checkpoint_options. 0 or a negative errno. */
int checkpoint_register(
    const checkpoint_hooks *hooks, const char *bus, checkpoint_registration **ret, char **ret_message);

/* A descriptor to poll(2) for POLLIN, the same as long as the registration lives; then call dispatch. */
int checkpoint_registration_fd(const checkpoint_registration *registration);

/* Does what there is to do, hooks among it, and registers again after a checkpoint. 0 or a negative errno: the
 * registration is lost (-EAGAIN: the service cannot be reached now, dispatch may be called again later). */
int checkpoint_registration_dispatch(checkpoint_registration *registration);

/* A thread that does all that; hooks run in it. After this the caller must not call dispatch. */
int checkpoint_registration_run_thread(checkpoint_registration *registration);

/* Nothing is asked any more. NULL is fine. Not to be called from a hook. */
void checkpoint_registration_free(checkpoint_registration *registration);

/* Version of the library, as "0.1.0". */
const char *checkpoint_library_version(void);

#ifdef __cplusplus
}
#endif
#endif
