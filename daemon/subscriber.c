/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "subscriber.h"

#include "sd-auto.h"

#define SUBSCRIBERS_MAX 1024

typedef struct Subscriber {
  Manager *manager;
  char *name;
  uid_t uid;
  sd_bus_track *track;
} Subscriber;

static void subscriber_free(void *data) {
  Subscriber *subscriber = data;

  (void)sd_bus_track_unref(subscriber->track);
  g_free(subscriber->name);
  g_free(subscriber);
}

GHashTable *subscriber_table_new(void) {
  return g_hash_table_new_full(g_str_hash, g_str_equal, NULL, subscriber_free);
}

static int on_gone(sd_bus_track *track, void *userdata) {
  Subscriber *subscriber = userdata;

  (void)subscriber_remove(subscriber->manager, subscriber->name);
  return 1; /* with 0 sd-bus would call again at once */
}

int subscriber_add(Manager *manager, const Caller *caller) {
  Subscriber *subscriber;
  int r;

  if (g_hash_table_contains(manager->subscribers, caller->name))
    return 0;
  if (g_hash_table_size(manager->subscribers) >= SUBSCRIBERS_MAX)
    return -ENOBUFS;
  subscriber = g_new0(Subscriber, 1);
  subscriber->manager = manager;
  subscriber->name = g_strdup(caller->name);
  subscriber->uid = caller->uid;
  r = sd_bus_track_new(manager->bus, &subscriber->track, on_gone, subscriber);
  if (r >= 0)
    r = sd_bus_track_add_name(subscriber->track, caller->name);
  if (r < 0)
    subscriber_free(subscriber);
  else
    g_hash_table_insert(manager->subscribers, subscriber->name, subscriber);
  return r;
}

bool subscriber_remove(Manager *manager, const char *name) {
  return g_hash_table_remove(manager->subscribers, name);
}

static void send_copy(Manager *manager, sd_bus_message *signal, const char *destination) {
  g_autoptr(sd_bus_message) copy = NULL;

  if (sd_bus_message_new_signal(manager->bus, &copy, sd_bus_message_get_path(signal),
          sd_bus_message_get_interface(signal), sd_bus_message_get_member(signal)) < 0 ||
      sd_bus_message_rewind(signal, true) < 0 || sd_bus_message_copy(copy, signal, true) < 0)
    return;
  /* A receiver that is gone by now misses nothing. */
  (void)sd_bus_send_to(manager->bus, copy, destination, NULL);
}

void subscriber_notify(Manager *manager, sd_bus_message *signal, const char *owner_name, uid_t owner_uid) {
  GHashTableIter iter;
  gpointer value;

  if (sd_bus_message_seal(signal, 1, 0) < 0)
    return;
  if (owner_name)
    send_copy(manager, signal, owner_name);
  g_hash_table_iter_init(&iter, manager->subscribers);
  while (g_hash_table_iter_next(&iter, NULL, &value)) {
    const Subscriber *subscriber = value;

    if (owner_name && g_str_equal(owner_name, subscriber->name))
      continue;
    if (owner_uid == (uid_t)-1 || subscriber->uid == 0 || subscriber->uid == owner_uid)
      send_copy(manager, signal, subscriber->name);
  }
}
