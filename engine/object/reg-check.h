/* SPDX-License-Identifier: LGPL-2.1-or-later */
#pragma once

/* What is looked at when a file has been opened again: is it what it was, may its caller have it? And what open(2) did not take of its
 * state. Of thousands of files another thread does that, beside the one that opens them. */

#include "external.h"

/* null, zero, full, random, urandom. */
bool reg_is_plain_device(const struct stat *st);
/* A regular file at a path, opened as one. */
bool reg_is_ordinary(const RegFileEntry *reg);

/* Type, and what of its state is to be compared. IMAGE_INCOMPATIBLE, FILE_CHANGED, NOT_SUPPORTED. @record may be NULL. */
bool reg_check_opened(const RegFileEntry *reg, const CkptExternal *record, const ExternalAnswer *answer, int fd, GError **error);
/* NOT_PERMITTED_TARGET, where the images are not trusted. */
bool reg_check_untrusted(const Restorer *r, const RegFileEntry *reg, int fd, GError **error);
/* Flags and position. An ordinary file need not be asked whether it was opened as an O_PATH. */
bool reg_finish(const RegFileEntry *reg, int fd, GError **error);

/* The thread that does all this for ordinary files that nobody has said anything about. */
typedef struct RegChecker RegChecker;
/* For at most @room files; NULL: it cannot be started. */
RegChecker *reg_checker_start(const Restorer *restorer, guint room);
/* Leaves the rest to it: @reg and @fd have to stay until the end. False: it takes no more, or @checker is NULL. */
bool reg_checker_take(RegChecker *checker, const RegFileEntry *reg, int fd);
/* Waits until all are checked, and frees it; false with what was wrong with the first. */
bool reg_checker_end(RegChecker *checker, GError **error);

/* What reg.c gives its files to; NULL: it does everything itself. Borrowed. */
void restorer_set_checker(Restorer *r, RegChecker *checker);
RegChecker *restorer_checker(const Restorer *r);
