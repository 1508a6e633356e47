/* The functions of NVIDIA's management library that MAX asks about the GPU of fake_cuda.c: an H100 that is idle and
 * whole. FAKE_COUNT, FAKE_GIB and FAKE_CAPABILITY change the answers of both.
 */

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { OK = 0, NOT_SUPPORTED = 3 };

typedef struct { unsigned long long total, free, used; } Memory;
typedef struct { char old_bus[16]; unsigned numbers[5]; char bus[32]; } PciInfo;

static long answer(const char *name, long usual) {
    const char *given = getenv(name);
    return given ? atol(given) : usual;
}

int nvmlInit_v2(void) { return OK; }
int nvmlShutdown(void) { return OK; }
const char *nvmlErrorString(int result) { return "an error of a GPU that is not there"; }
int nvmlSystemGetDriverVersion(char *text, unsigned size) { snprintf(text, size, "580.65.06"); return OK; }
int nvmlDeviceGetCount_v2(unsigned *count) { *count = (unsigned)answer("FAKE_COUNT", 1); return OK; }
int nvmlDeviceGetHandleByIndex(unsigned number, void **device) { *device = (void *)1; return OK; }
int nvmlDeviceGetName(void *device, char *text, unsigned size) { snprintf(text, size, "NVIDIA H100"); return OK; }
int nvmlDeviceGetPciInfo_v3(void *device, PciInfo *info) { memset(info, 0, sizeof *info); return OK; }
int nvmlDeviceGetTotalEccErrors(void *device, int type, int kind, unsigned long long *n) { *n = 0; return OK; }
int nvmlDeviceGetCurrentClocksThrottleReasons(void *device, unsigned long long *bits) { *bits = 0; return OK; }
int nvmlDeviceGetComputeRunningProcesses_v3(void *device, unsigned *count, void *list) { *count = 0; return OK; }
int nvmlDeviceGetMigMode(void *device, unsigned *now, unsigned *next) { return NOT_SUPPORTED; }

int nvmlDeviceGetCudaComputeCapability(void *device, int *major, int *minor) {
    *major = (int)answer("FAKE_CAPABILITY", 90) / 10;
    *minor = (int)answer("FAKE_CAPABILITY", 90) % 10;
    return OK;
}

int nvmlDeviceGetMemoryInfo(void *device, Memory *memory) {
    memory->total = memory->free = (unsigned long long)answer("FAKE_GIB", 80) << 30;
    memory->used = 0;
    return OK;
}
