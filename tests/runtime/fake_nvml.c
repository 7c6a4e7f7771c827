/* A libnvidia-ml.so.1 with one GPU, for tests. What it answers stands in the file that the
   environment variable FAKE_NVML names, read at each call: lines "name value"; "name_rc 3" makes
   that question fail with the error 3, and "lost_after 5" the sixth question for a clock and all
   later ones with 15. What changes a setting ends the process, unless the file has "may_lock 1":
   then it is written to the file that FAKE_NVML_LOG names. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef void *Device;
typedef struct { unsigned pid; unsigned long long memory; unsigned gpu, compute; } Process;
static int the_gpu;

static long long told(const char *name, long long otherwise) {
  const char *path = getenv("FAKE_NVML");
  FILE *f = path ? fopen(path, "r") : NULL;
  char word[64];
  long long value;
  if (!f) return otherwise;
  while (fscanf(f, "%63s %lld", word, &value) == 2)
    if (strcmp(word, name) == 0) otherwise = value;
  fclose(f);
  return otherwise;
}

static int lost(void) {
  static long long asked;
  long long after = told("lost_after", -1);
  return after >= 0 && asked++ >= after;
}

static int answer(const char *name, unsigned *out, long long otherwise) {
  char rc[64];
  snprintf(rc, sizeof rc, "%s_rc", name);
  *out = (unsigned)told(name, otherwise);
  return (int)told(rc, 0);
}

const char *nvmlErrorString(int code) {
  switch (code) {
    case 3: return "Not Supported";
    case 4: return "Insufficient Permissions";
    case 6: return "Not Found";
    case 15: return "GPU is lost";
    default: return "Unknown Error";
  }
}

int nvmlInit_v2(void) { return (int)told("init_rc", 0); }
int nvmlInitWithFlags(unsigned flags) { return nvmlInit_v2(); }
int nvmlShutdown(void) { return 0; }
int nvmlDeviceGetCount_v2(unsigned *n) { *n = 1; return 0; }
int nvmlSystemGetDriverVersion(char *text, unsigned n) { snprintf(text, n, "580.00"); return 0; }
int nvmlDeviceGetHandleByPciBusId_v2(const char *id, Device *d) {
  *d = &the_gpu;
  return strcmp(id, "0000:3B:00.0") ? 6 : 0;
}
int nvmlDeviceGetName(Device d, char *text, unsigned n) { snprintf(text, n, "Fake"); return 0; }
int nvmlDeviceGetPowerUsage(Device d, unsigned *v) { return answer("power", v, 300000); }
int nvmlDeviceGetEnforcedPowerLimit(Device d, unsigned *v) { return answer("limit", v, 700000); }
int nvmlDeviceGetPowerManagementDefaultLimit(Device d, unsigned *v) {
  return answer("default_limit", v, 700000);
}
int nvmlDeviceGetTotalEnergyConsumption(Device d, unsigned long long *v) {
  static long long asked;
  *v = (unsigned long long)(told("energy", 1000000) + told("energy_step", 0) * asked++);
  return (int)told("energy_rc", 0);
}
int nvmlDeviceGetTotalEccErrors(Device d, int kind, int counter, unsigned long long *v) {
  *v = (unsigned long long)told("ecc_errors", 0);
  return (int)told("ecc_errors_rc", 0);
}
int nvmlDeviceGetHandleByIndex_v2(unsigned k, Device *d) { *d = &the_gpu; return 0; }
typedef struct {
  char legacy[16];
  unsigned domain, bus, device, id, sub_id;
  char bus_id[32];
} Pci;
int nvmlDeviceGetPciInfo_v3(Device d, Pci *out) {
  memset(out, 0, sizeof *out);
  strcpy(out->bus_id, "0000:3B:00.0");
  return 0;
}
int nvmlDeviceGetClockInfo(Device d, int type, unsigned *v) {
  if (lost()) return 15;
  return type == 2 ? answer("mem", v, 2619) : answer("sm", v, 1755);
}
int nvmlDeviceGetMaxClockInfo(Device d, int type, unsigned *v) {
  return type == 2 ? answer("max_mem", v, 2619) : answer("max_sm", v, 1980);
}
int nvmlDeviceGetTemperature(Device d, int sensor, unsigned *v) { return answer("temp", v, 50); }
int nvmlDeviceGetMigMode(Device d, unsigned *now, unsigned *next) {
  *next = 0;
  return answer("mig", now, 0);
}
int nvmlDeviceGetEccMode(Device d, unsigned *now, unsigned *next) {
  *next = 1;
  return answer("ecc", now, 1);
}
int nvmlDeviceGetCurrentClocksThrottleReasons(Device d, unsigned long long *v) {
  *v = (unsigned long long)told("reasons", 0);
  return (int)told("reasons_rc", 0);
}
#ifndef OLD_DRIVER
int nvmlDeviceGetCurrentClocksEventReasons(Device d, unsigned long long *v) {
  return nvmlDeviceGetCurrentClocksThrottleReasons(d, v);
}
#endif
int nvmlDeviceGetComputeRunningProcesses_v3(Device d, unsigned *n, Process *out) {
  unsigned there = (unsigned)told("processes", 0);
  int rc = (int)told("processes_rc", 0);
  if (rc) return rc;
  if (*n < there) { *n = there; return 7; }
  *n = there;
  for (unsigned i = 0; i < there; ++i) {
    memset(&out[i], 0, sizeof out[i]);
    out[i].pid = (unsigned)(i == 0 ? told("own_pid", 4000000) : 4000000 + i);
  }
  return 0;
}
/* What changes a setting. */
static int change(const char *what, unsigned a, unsigned b, const char *rc) {
  const char *path = getenv("FAKE_NVML_LOG");
  FILE *f;
  int code = (int)told(rc, 0);
  if (!told("may_lock", 0)) abort();
  if (code) return code;
  f = path ? fopen(path, "a") : NULL;
  if (f) {
    fprintf(f, "%s %u %u\n", what, a, b);
    fclose(f);
  }
  return 0;
}
int nvmlDeviceSetGpuLockedClocks(Device d, unsigned a, unsigned b) {
  return change("lock", a, b, "lock_rc");
}
int nvmlDeviceResetGpuLockedClocks(Device d) { return change("reset", 0, 0, "reset_rc"); }
/* Whatever changes another one ends the test. */
int nvmlDeviceSetPowerManagementLimit(Device d, unsigned v) { abort(); }
int nvmlDeviceSetPersistenceMode(Device d, int v) { abort(); }
