/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The one place that says who may do what. A member that is missing here is refused,
 * and the test suite fails. docs/man/org.criu.Checkpoint.5 tells the same to users. */
#include "access-table.h"

#define MANAGER MANAGER_INTERFACE
#define JOB JOB_INTERFACE
#define DUMP ACTION("dump-own"), ACTION("dump-any")
#define RESTORE ACTION("restore-own"), ACTION("restore-any")
#define MANAGE NULL, ACTION_MANAGE_ANY

static const AccessRow access_table[] = {
    {MANAGER, "Dump", ACCESS_TARGET, DUMP},
    {MANAGER, "StartDump", ACCESS_TARGET, DUMP},
    {MANAGER, "StartDumpSelf", ACCESS_TARGET, DUMP},
    {MANAGER, "DumpSelfTo", ACCESS_TARGET, DUMP},
    {MANAGER, "DumpTo", ACCESS_TARGET, DUMP},
    {MANAGER, "PreDump", ACCESS_TARGET, DUMP},
    {MANAGER, "StartPreDump", ACCESS_TARGET, DUMP},
    /* What blocks a dump tells as much about a process as its dump does. */
    {MANAGER, "Explain", ACCESS_TARGET, DUMP},
    {MANAGER, "Restore", ACCESS_CHECKPOINT, RESTORE},
    {MANAGER, "StartRestore", ACCESS_CHECKPOINT, RESTORE},
    {MANAGER, "RestoreFrom", ACCESS_CHECKPOINT, ACTION("restore-untrusted"), ACTION("restore-untrusted")},
    /* Of oneself: which process it is says the bus. */
    {MANAGER, "RegisterApplication", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "ListCheckpoints", ACCESS_OWN, MANAGE},
    {MANAGER, "DescribeCheckpoint", ACCESS_OWN, MANAGE},
    {MANAGER, "RemoveCheckpoint", ACCESS_OWN, MANAGE},
    {MANAGER, "ListJobs", ACCESS_OWN, MANAGE},
    {MANAGER, "Check", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "ListPlugins", ACCESS_OPEN, NULL, NULL},
    /* A subscriber hears of its own uid's jobs; root of all. */
    {MANAGER, "Subscribe", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "Unsubscribe", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "Version", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "InterfaceVersion", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "EngineVersion", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "Features", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "MaxJobsRunning", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "MaxJobsPerUser", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "JobsRunning", ACCESS_OPEN, NULL, NULL},
    {MANAGER, "JobsQueued", ACCESS_OPEN, NULL, NULL},
    {JOB, "Wait", ACCESS_OWN, MANAGE},
    {JOB, "Cancel", ACCESS_OWN, MANAGE},
    {JOB, "Release", ACCESS_OWN, MANAGE},
    {JOB, "Id", ACCESS_OWN, MANAGE},
    {JOB, "Operation", ACCESS_OWN, MANAGE},
    {JOB, "OwnerUID", ACCESS_OWN, MANAGE},
    {JOB, "TargetPID", ACCESS_OWN, MANAGE},
    {JOB, "Name", ACCESS_OWN, MANAGE},
    {JOB, "StartTime", ACCESS_OWN, MANAGE},
    {JOB, "State", ACCESS_OWN, MANAGE},
    {JOB, "Phase", ACCESS_OWN, MANAGE},
    {JOB, "Progress", ACCESS_OWN, MANAGE},
    {JOB, "ProgressValid", ACCESS_OWN, MANAGE},
    {JOB, "BytesTotal", ACCESS_OWN, MANAGE},
    {JOB, "BytesDone", ACCESS_OWN, MANAGE},
    {JOB, "Rate", ACCESS_OWN, MANAGE},
    {JOB, "ExpectedEndTime", ACCESS_OWN, MANAGE},
    {JOB, "Cancelable", ACCESS_OWN, MANAGE},
    {JOB, "Result", ACCESS_OWN, MANAGE},
    {JOB, "ErrorName", ACCESS_OWN, MANAGE},
    {JOB, "ErrorMessage", ACCESS_OWN, MANAGE},
};

const AccessRow *access_find(const char *interface, const char *member) {
  for (size_t i = 0; i < G_N_ELEMENTS(access_table); i++)
    if (g_str_equal(access_table[i].interface, interface) && g_str_equal(access_table[i].member, member))
      return &access_table[i];
  return NULL;
}
