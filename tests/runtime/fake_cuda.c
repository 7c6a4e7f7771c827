/* A stand-in for libcuda.so.1: as many devices as FAKE_CUDA says, of two models; "broken" breaks. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char *told(void) { const char *t = getenv("FAKE_CUDA"); return t ? t : "0"; }

int cuInit(unsigned flags) { return strcmp(told(), "broken") == 0 ? 999 : 0; }
int cuDeviceGetCount(int *count) { *count = atoi(told()); return 0; }
int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return 0; }
int cuDeviceGetName(char *name, int size, int device) {
    snprintf(name, size, device < 2 ? "Fake H100" : "Fake A10");
    return 0;
}
int cuDeviceGetPCIBusId(char *bus, int size, int device) {
    snprintf(bus, size, "0000:%02X:00.0", 0x3a + device);
    return 0;
}
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? (device < 2 ? 9 : 8) : attribute == 76 ? (device < 2 ? 0 : 6) : -1;
    return 0;
}
