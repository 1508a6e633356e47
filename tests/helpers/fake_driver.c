/* The functions of an NVIDIA driver that runtime/device.py asks, with answers from the environment. */

#include <stddef.h>
#include <stdlib.h>

static long answer(const char *name, long usual) {
    const char *given = getenv(name);
    return given ? atol(given) : usual;
}

int cuInit(unsigned flags) { return (int)answer("FAKE_INIT", 0); }
int cuDriverGetVersion(int *version) { *version = (int)answer("FAKE_VERSION", 13000); return 0; }
int cuDeviceGetCount(int *count) { *count = (int)answer("FAKE_COUNT", 1); return 0; }
int cuDeviceGet(int *device, int number) { *device = number; return 0; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = (size_t)answer("FAKE_GIB", 80) << 30; return 0; }

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    long capability = answer("FAKE_CAPABILITY", 90);
    *value = (int)(attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : 0);
    return 0;
}
