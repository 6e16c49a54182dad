/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* CheckAuthorization of org.freedesktop.PolicyKit1.Authority, asynchronous, over the
 * service's own connection. libpolkit would bring GObject, a main loop of its own and a
 * second connection along for this one call. */
#include "polkit-client.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>

#include "sd-auto.h"

#define POLKIT                                                                                                         \
  "org.freedesktop.PolicyKit1", "/org/freedesktop/PolicyKit1/Authority", "org.freedesktop.PolicyKit1.Authority"
#define ALLOW_USER_INTERACTION 1U

struct PolkitPending {
  sd_bus *bus;
  sd_bus_slot *slot; /* NULL: answered */
  char *cancellation_id;
  PolkitHandler handler;
  void *userdata;
};

static void cancel_question(PolkitPending *pending) {
  g_autoptr(sd_bus_message) call = NULL;

  if (sd_bus_message_new_method_call(pending->bus, &call, POLKIT, "CancelCheckAuthorization") < 0 ||
      sd_bus_message_append(call, "s", pending->cancellation_id) < 0 || sd_bus_message_set_expect_reply(call, 0) < 0)
    return;
  (void)sd_bus_message_set_auto_start(call, 0);
  (void)sd_bus_send(pending->bus, call, NULL);
}

void polkit_pending_free(PolkitPending *pending) {
  if (!pending)
    return;
  if (pending->slot) {
    (void)sd_bus_slot_unref(pending->slot);
    cancel_question(pending);
  }
  (void)sd_bus_unref(pending->bus);
  g_free(pending->cancellation_id);
  g_free(pending);
}

static int on_reply(sd_bus_message *reply, void *userdata, sd_bus_error *unused) {
  PolkitPending *pending = userdata;
  const sd_bus_error *e = sd_bus_message_get_error(reply);
  int granted = 0, challenge = 0;
  PolkitAnswer answer = POLKIT_REFUSED;
  const char *why = "";

  if (e || sd_bus_message_enter_container(reply, 'r', "bba{ss}") < 0 ||
      sd_bus_message_read(reply, "bb", &granted, &challenge) < 0) {
    answer = POLKIT_UNAVAILABLE;
    why = e && e->message ? e->message : "it gave no answer that could be understood";
  } else if (granted)
    answer = POLKIT_GRANTED;
  else if (challenge)
    answer = POLKIT_CHALLENGE;
  pending->slot = sd_bus_slot_unref(pending->slot);
  pending->handler(answer, why, pending->userdata);
  return 1;
}

static int append_question(sd_bus_message *call, const PolkitQuestion *question, const char *cancellation_id) {
  int r =
      sd_bus_message_append(call, "(sa{sv})s", "system-bus-name", 1, "name", "s", question->subject, question->action);

  if (r >= 0)
    r = sd_bus_message_open_container(call, 'a', "{ss}");
  for (const PolkitDetail *d = question->details; r >= 0 && d && d->key; d++)
    r = sd_bus_message_append(call, "{ss}", d->key, d->value);
  if (r >= 0)
    r = sd_bus_message_close_container(call);
  if (r >= 0)
    r = sd_bus_message_append(call, "us", question->interactive ? ALLOW_USER_INTERACTION : 0, cancellation_id);
  return r;
}

int polkit_ask(
    sd_bus *bus, const PolkitQuestion *question, PolkitHandler handler, void *userdata, PolkitPending **ret) {
  static uint64_t counter;
  g_autoptr(sd_bus_message) call = NULL;
  g_autoptr(PolkitPending) pending = g_new0(PolkitPending, 1);
  int r;

  pending->bus = sd_bus_ref(bus);
  pending->handler = handler;
  pending->userdata = userdata;
  pending->cancellation_id = g_strdup_printf("checkpointd-%" PRIu64, ++counter);
  r = sd_bus_message_new_method_call(bus, &call, POLKIT, "CheckAuthorization");
  if (r >= 0)
    r = append_question(call, question, pending->cancellation_id);
  if (r >= 0)
    r = sd_bus_call_async(bus, &pending->slot, call, on_reply, pending, UINT64_MAX);
  if (r < 0)
    return r;
  *ret = g_steal_pointer(&pending);
  return 0;
}
