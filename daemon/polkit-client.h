/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include <glib.h>
#include <stdbool.h>
#include <systemd/sd-bus.h>

#define ACTION(name) "org.criu.Checkpoint." name

typedef enum PolkitAnswer {
  POLKIT_GRANTED,
  POLKIT_REFUSED,
  POLKIT_CHALLENGE,   /* somebody would have to authenticate */
  POLKIT_UNAVAILABLE, /* polkit is not there or did not understand */
} PolkitAnswer;

typedef struct PolkitDetail {
  const char *key;
  const char *value;
} PolkitDetail;

typedef struct PolkitQuestion {
  const char *subject; /* unique bus name of who is to be authorized */
  const char *action;
  const PolkitDetail *details; /* ends with a NULL key */
  bool interactive;
} PolkitQuestion;

typedef struct PolkitPending PolkitPending;
/* @why is a text for POLKIT_UNAVAILABLE. The pending question is over (and freed by its
 * owner with polkit_pending_free(), also from here). */
typedef void (*PolkitHandler)(PolkitAnswer answer, const char *why, void *userdata);

/* Asks org.freedesktop.PolicyKit1 on @bus, without a time-out: people answer slowly. */
int polkit_ask(sd_bus *bus, const PolkitQuestion *question, PolkitHandler handler, void *userdata, PolkitPending **ret);

/* Withdraws the question if it is unanswered: dialogs close. */
void polkit_pending_free(PolkitPending *pending);
G_DEFINE_AUTOPTR_CLEANUP_FUNC(PolkitPending, polkit_pending_free)
