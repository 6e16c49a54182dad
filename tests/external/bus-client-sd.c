/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* A client of a message bus with sd-bus: owns a name, counts calls and signals, asks the bus. argv[1]: a directory, where
 * it says when it is ready. */

#include <stdio.h>
#include <stdlib.h>
#include <systemd/sd-bus.h>

static uint32_t calls, pings;

static int on_count(sd_bus_message *m, void *data, sd_bus_error *error) {
  return sd_bus_reply_method_return(m, "u", ++calls);
}

static int on_pings(sd_bus_message *m, void *data, sd_bus_error *error) {
  return sd_bus_reply_method_return(m, "u", pings);
}

static int on_ask(sd_bus_message *m, void *data, sd_bus_error *error) {
  sd_bus_message *reply = NULL;
  const char *id = "";
  int r = sd_bus_call_method(sd_bus_message_get_bus(m), "org.freedesktop.DBus", "/org/freedesktop/DBus",
      "org.freedesktop.DBus", "GetId", error, &reply, NULL);
  if (r >= 0)
    r = sd_bus_message_read(reply, "s", &id);
  if (r >= 0)
    r = sd_bus_reply_method_return(m, "s", id);
  sd_bus_message_unref(reply);
  return r;
}

static int on_ping(sd_bus_message *m, void *data, sd_bus_error *error) {
  pings++;
  return 0;
}

static const sd_bus_vtable table[] = {
    SD_BUS_VTABLE_START(0),
    SD_BUS_METHOD("Count", "", "u", on_count, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Pings", "", "u", on_pings, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_METHOD("Ask", "", "s", on_ask, SD_BUS_VTABLE_UNPRIVILEGED),
    SD_BUS_VTABLE_END,
};

int main(int argc, char **argv) {
  sd_bus *bus = NULL;
  if (argc < 2 || sd_bus_open_user(&bus) < 0 || sd_bus_add_object_vtable(bus, NULL, "/x", "org.test.X", table, NULL) < 0 ||
      sd_bus_request_name(bus, "org.test.X", 0) < 0 ||
      sd_bus_add_match(bus, NULL, "type='signal',interface='org.test.X',member='Ping'", on_ping, NULL) < 0)
    return EXIT_FAILURE;
  char path[4096];
  (void)snprintf(path, sizeof path, "%s/ready", argv[1]);
  FILE *ready = fopen(path, "w");
  if (!ready || fclose(ready) != 0)
    return EXIT_FAILURE;
  for (;;) {
    int r = sd_bus_process(bus, NULL);
    if (r == 0)
      r = sd_bus_wait(bus, UINT64_MAX);
    if (r < 0)
      return EXIT_FAILURE;
  }
}
