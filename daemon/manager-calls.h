/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

#include "call.h"

/* How method @member of the Manager interface is parsed and done; NULL: no such method. */
const CallHandler *manager_call_find(const char *member);
