/* SPDX-License-Identifier: LGPL-2.1-or-later */

/* Messages of a bus, as the engine reads them. The first byte says what the body is taken for. */

#include "bus-message.h"
#include "fuzz.h"
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
  BusMessage m;
  if (size < 1 + BUS_HEADER)
    return 0;
  g_autofree guint8 *copy = g_memdup2(data + 1, size - 1);
  gsize whole = bus_message_size(copy);
  if (whole > BUS_MESSAGE_MAX)
    abort();
  if (!bus_message_parse(copy, size - 1, &m))
    return 0;
  if (whole != size - 1 || m.size > whole || m.body < copy || m.body + m.size != copy + whole)
    abort();
  guint32 number;
  (void)bus_read_number(&m, &number);
  g_free(bus_read_text(&m));
  g_strfreev(bus_read_texts(&m));
  g_strfreev(bus_read_texts_of(&m, ":1.0"));
  return 0;
}
