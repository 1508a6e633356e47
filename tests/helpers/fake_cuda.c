/* A CUDA driver without a GPU, to rehearse what MAX asks of one: memory is the host's, copies are made, kernels are
 * looked at and counted, and not run. fake_driver.c is the same for what runtime/device.py asks alone.
 *
 * The file that FAKE_LOG names gets a line for each event:
 *
 *     launch NAME grid X,Y,Z block X,Y,Z shared N       a kernel, with bytes of dynamic shared memory; one that is
 *                                                       recorded in a graph counts when it is recorded
 *     graph launch                                      all that was recorded
 *     copy HtoD N, copy DtoH N, copy DtoD N             bytes to the device, from it, within it
 *     memset N, alloc N                                 bytes
 *     synchronize                                       the host waits for all that it asked for
 *     unsupported NAME                                  a function that is not here, or `attribute` and its number
 *     bad launch .., bad copy .., bad memset ..         a device would refuse it, and so does this driver; after a
 *                                                       colon the reason
 *
 * MAX looks for 114 functions and does without the driver if one is missing. The last section has those that it did
 * not call in any rehearsal.
 */

#define _GNU_SOURCE
#include <elf.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

/* ---------------------------------------------------------------- types of cuda.h, and its numbers for results */

typedef unsigned long long Address; /* of device memory */
typedef struct Handle { char unused; } *Handle;

enum {
    OK = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    NOT_FOUND = 500,
    NOT_SUPPORTED = 801,
    CAPTURE_UNSUPPORTED = 900,
};

typedef struct {
    unsigned grid[3], block[3], shared;
    Handle stream;
    void *attributes;
    unsigned attributes_count;
} LaunchConfig;

typedef struct {
    uint64_t flags;
    Handle upload_stream, error_node;
    int result;
} InstantiateParams;

static Handle new_handle(void) { return calloc(1, sizeof(struct Handle)); }

/* ---------------------------------------------------------------- the log */

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;

static void tell(const char *format, ...) {
    static FILE *file;
    if (!getenv("FAKE_LOG")) return;
    va_list values;
    va_start(values, format);
    pthread_mutex_lock(&lock);
    if (!file && !(file = fopen(getenv("FAKE_LOG"), "a"))) abort();
    vfprintf(file, format, values);
    fputc('\n', file);
    fflush(file); /* the script writes its marks to the same file */
    pthread_mutex_unlock(&lock);
    va_end(values);
}

/* ---------------------------------------------------------------- the driver and its device: an H100 */

static long answer(const char *name, long usual) {
    const char *given = getenv(name);
    return given ? atol(given) : usual;
}

static size_t memory_size(void) { return (size_t)answer("FAKE_GIB", 80) << 30; }

enum { MOST_THREADS = 1024, MOST_SHARED = 232448, MOST_SHARED_UNASKED = 49152, MOST_GRID_YZ = 65535 };
enum { MULTIPROCESSOR_PARTS = 4, REGISTERS_OF_A_PART = 16384, WARP = 32 };

int cuInit(unsigned flags) { return (int)answer("FAKE_INIT", OK); }
int cuDriverGetVersion(int *version) { *version = (int)answer("FAKE_VERSION", 13000); return OK; }
int cuDeviceGetCount(int *count) { *count = (int)answer("FAKE_COUNT", 1); return OK; }
int cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = memory_size(); return OK; }

int cuDeviceGet(int *device, int number) {
    *device = number;
    return number < answer("FAKE_COUNT", 1) ? OK : INVALID_DEVICE;
}

int cuDeviceGetAttribute(int *value, int attribute, int device) {
    int capability = (int)answer("FAKE_CAPABILITY", 90);
    *value = 0;
    switch (attribute) {
        case 14: *value = 512; break; /* alignment of textures */
        case 18: break;               /* shares the host's memory */
        case 33: case 34: case 50:    /* where it is on the bus */
        case 103: case 110: break;    /* lends its memory to other programs, and devices */
        case 75: *value = capability / 10; break;
        case 76: *value = capability % 10; break;
        default: tell("unsupported attribute %d", attribute);
    }
    return OK;
}

int cuGetErrorName(int result, const char **name) {
    static __thread char text[32];
    snprintf(text, sizeof text, "CUDA_ERROR_%d", result);
    *name = text;
    return OK;
}

int cuGetErrorString(int result, const char **text) { return cuGetErrorName(result, text); }

/* ---------------------------------------------------------------- contexts, streams and events: everything is done
 * when it is asked for, so an event has always come */

static __thread Handle current_context;
static Handle recording; /* the stream whose launches are recorded */

int cuDevicePrimaryCtxRetain(Handle *context, int device) {
    static struct Handle primary;
    *context = &primary;
    return OK;
}

int cuCtxGetCurrent(Handle *context) { *context = current_context; return OK; }
int cuCtxSetCurrent(Handle context) { current_context = context; return OK; }

int cuStreamCreate(Handle *stream, unsigned flags) { *stream = new_handle(); return OK; }
int cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return cuStreamCreate(stream, flags); }
int cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return OK; }
int cuStreamIsCapturing(Handle stream, int *status) { *status = recording && stream == recording; return OK; }

int cuStreamSynchronize(Handle stream) {
    tell("synchronize");
    return recording && stream == recording ? CAPTURE_UNSUPPORTED : OK;
}

int cuEventCreate(Handle *event, unsigned flags) { *event = new_handle(); return OK; }
int cuEventRecord(Handle event, Handle stream) { return OK; }
int cuEventQuery(Handle event) { return OK; } /* MAX asks once and goes on, whatever it is told */

/* ---------------------------------------------------------------- memory: taken as it is written, never freed */

static struct { Address begin; size_t size; } allocations[256];
static int allocations_count;
static size_t allocated;

int cuMemGetInfo_v2(size_t *free, size_t *total) {
    *total = memory_size();
    *free = *total - allocated;
    return OK;
}

int cuMemAlloc_v2(Address *address, size_t size) {
    tell("alloc %zu", size);
    if (allocated + size > memory_size() || allocations_count == sizeof allocations / sizeof *allocations) {
        return OUT_OF_MEMORY;
    }
    void *pages = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (pages == MAP_FAILED) return OUT_OF_MEMORY;
    *address = (Address)pages;
    pthread_mutex_lock(&lock);
    allocations[allocations_count].begin = *address;
    allocations[allocations_count].size = size;
    allocations_count++;
    allocated += size;
    pthread_mutex_unlock(&lock);
    return OK;
}

static int is_allocated(Address address, size_t size) {
    for (int i = 0; i < allocations_count; i++) {
        size_t offset = address - allocations[i].begin;
        if (address >= allocations[i].begin && offset + size <= allocations[i].size) return 1;
    }
    return 0;
}

/* Why something of so many bytes cannot be done on a stream, at two addresses of the device; NULL if it can. What
 * one thread asks for while another one records is recorded: it is not done then, and done again with every launch. */
static const char *fault_of(Handle stream, Address one, Address other, size_t size) {
    if (!is_allocated(one, size) || !is_allocated(other, size)) return "that is not memory of the device";
    if (recording && stream == recording) return "its stream is being recorded";
    return NULL;
}

static int tell_size(const char *what, size_t size, const char *fault) {
    tell("%s%s %zu%s%s", fault ? "bad " : "", what, size, fault ? ": " : "", fault ? fault : "");
    return fault ? INVALID_VALUE : OK;
}

int cuMemcpyHtoDAsync_v2(Address to, const void *from, size_t size, Handle stream) {
    int result = tell_size("copy HtoD", size, fault_of(stream, to, to, size));
    if (result == OK) memcpy((void *)to, from, size);
    return result;
}

int cuMemcpyDtoHAsync_v2(void *to, Address from, size_t size, Handle stream) {
    int result = tell_size("copy DtoH", size, fault_of(stream, from, from, size));
    if (result == OK) memcpy(to, (void *)from, size);
    return result;
}

int cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, Handle stream) {
    int result = tell_size("copy DtoD", size, fault_of(stream, to, from, size));
    if (result == OK) memmove((void *)to, (void *)from, size);
    return result;
}

int cuMemsetD8Async(Address to, unsigned char value, size_t size, Handle stream) {
    int result = tell_size("memset", size, fault_of(stream, to, to, size));
    if (result == OK) memset((void *)to, value, size);
    return result;
}

/* ---------------------------------------------------------------- modules: ELF files, whose sections .nv.info* say
 * what a kernel takes. A record there is a format, an attribute, and a number of 16 bits, which in format 4 is the
 * size of what follows. */

enum { SIZED = 4, MAX_THREADS = 0x05, PARAMETER = 0x17, REGISTERS = 0x2f };
enum { MOST_PARAMETERS = 128 };

typedef struct {
    char name[512];
    unsigned most_threads, registers;     /* of a block; of a thread */
    unsigned shared, most_dynamic_shared; /* bytes */
    unsigned parameters;
    unsigned offsets[MOST_PARAMETERS], sizes[MOST_PARAMETERS];
} Kernel;

static const Elf64_Shdr *section(const char *image, const char *prefix, const char *kernel) {
    const Elf64_Ehdr *header = (const void *)image;
    const Elf64_Shdr *sections = (const void *)(image + header->e_shoff);
    const char *names = image + sections[header->e_shstrndx].sh_offset;
    for (int i = 0; i < header->e_shnum; i++) {
        const char *name = names + sections[i].sh_name;
        size_t begin = strlen(prefix);
        if (!strncmp(name, prefix, begin) && !strcmp(name + begin, kernel)) return &sections[i];
    }
    return NULL;
}

static unsigned number(const char *at, int bytes) {
    unsigned value = 0;
    memcpy(&value, at, bytes);
    return value;
}

static void read_record(Kernel *kernel, unsigned char attribute, const char *data, unsigned symbol) {
    if (attribute == MAX_THREADS) {
        kernel->most_threads = number(data, 4) * number(data + 4, 4) * number(data + 8, 4);
    }
    if (attribute == REGISTERS && number(data, 4) == symbol) {
        kernel->registers = number(data + 4, 4);
    }
    if (attribute == PARAMETER && number(data + 4, 2) < MOST_PARAMETERS) {
        unsigned place = number(data + 4, 2);
        kernel->offsets[place] = number(data + 6, 2);
        kernel->sizes[place] = number(data + 8, 4) >> 18;
        if (place >= kernel->parameters) kernel->parameters = place + 1;
    }
}

static void read_info(Kernel *kernel, const char *image, const Elf64_Shdr *info, unsigned symbol) {
    if (!info) return;
    const char *at = image + info->sh_offset, *end = at + info->sh_size;
    while (at + 4 <= end) {
        int sized = at[0] == SIZED;
        if (sized) read_record(kernel, at[1], at + 4, symbol);
        at += 4 + (sized ? number(at + 2, 2) : 0);
    }
}

int cuModuleLoadDataEx(Handle *module, const void *image, unsigned options, void *names, void *values) {
    const Elf64_Ehdr *header = image;
    if (memcmp(image, ELFMAG, SELFMAG)) return INVALID_IMAGE; /* PTX, which a driver would compile */
    size_t sections_end = header->e_shoff + (size_t)header->e_shnum * header->e_shentsize;
    size_t segments_end = header->e_phoff + (size_t)header->e_phnum * header->e_phentsize;
    size_t size = sections_end > segments_end ? sections_end : segments_end;
    char *copy = malloc(size);
    *module = (Handle)memcpy(copy, image, size);
    return OK;
}

int cuModuleGetFunction(Handle *function, Handle module, const char *name) {
    const char *image = (const char *)module;
    const Elf64_Shdr *code = section(image, ".text.", name), *shared = section(image, ".nv.shared.", name);
    if (!code) return NOT_FOUND;
    unsigned symbol = code->sh_info & 0xffffff; /* of the kernel; above it older formats have the registers */
    Kernel *kernel = calloc(1, sizeof *kernel);
    snprintf(kernel->name, sizeof kernel->name, "%s", name);
    kernel->most_threads = MOST_THREADS;
    kernel->shared = shared ? shared->sh_size : 0;
    kernel->most_dynamic_shared = MOST_SHARED_UNASKED - kernel->shared;
    read_info(kernel, image, section(image, ".nv.info", ""), symbol);
    read_info(kernel, image, section(image, ".nv.info.", name), symbol);
    *function = (Handle)kernel;
    return OK;
}

int cuFuncSetAttribute(Handle function, int attribute, int value) {
    Kernel *kernel = (Kernel *)function;
    if (attribute != 8) return OK; /* 8 is the most dynamic shared memory */
    if (value < 0 || value + kernel->shared > MOST_SHARED) {
        tell("bad launch %s: it asks for %d bytes of shared memory beside %u", kernel->name, value, kernel->shared);
        return INVALID_VALUE;
    }
    kernel->most_dynamic_shared = value;
    return OK;
}

int cuFuncGetParamInfo(Handle function, size_t place, size_t *offset, size_t *size) {
    const Kernel *kernel = (const Kernel *)function;
    if (place >= kernel->parameters) return INVALID_VALUE;
    if (offset) *offset = kernel->offsets[place];
    if (size) *size = kernel->sizes[place];
    return OK;
}

/* ---------------------------------------------------------------- launches */

/* Why a device would refuse it; NULL if it would not. Each part of a multiprocessor holds every fourth warp, whose
 * registers are counted in eights. */
static const char *refusal(const Kernel *kernel, const unsigned *grid, const unsigned *block, unsigned shared) {
    for (int axis = 0; axis < 3; axis++) {
        if (!grid[axis] || !block[axis]) return "a size is zero";
        if (block[axis] > MOST_THREADS) return "a block has too many threads";
    }
    unsigned threads = block[0] * block[1] * block[2];
    unsigned warps = (threads + WARP - 1) / WARP;
    unsigned warps_of_a_part = (warps + MULTIPROCESSOR_PARTS - 1) / MULTIPROCESSOR_PARTS;
    if (threads > MOST_THREADS) return "a block has too many threads";
    if (threads > kernel->most_threads) return "a block has more threads than the kernel was compiled for";
    if (block[2] > 64) return "a block is too deep";
    if (grid[0] > INT32_MAX || grid[1] > MOST_GRID_YZ || grid[2] > MOST_GRID_YZ) return "there are too many blocks";
    if (shared + kernel->shared > MOST_SHARED) return "a block has too much shared memory";
    if (shared > kernel->most_dynamic_shared) return "a block has more shared memory than was asked for";
    if (((kernel->registers + 7) & ~7u) * WARP * warps_of_a_part > REGISTERS_OF_A_PART) {
        return "a block has too many registers";
    }
    return NULL;
}

/* Reads what a driver would hand to the kernel: a wrong number or size of arguments ends the process here. */
static void read_arguments(const Kernel *kernel, void **arguments) {
    volatile char byte = 0;
    for (unsigned i = 0; i < kernel->parameters; i++) {
        for (unsigned k = 0; k < kernel->sizes[i]; k++) byte += ((const char *)arguments[i])[k];
    }
}

int cuLaunchKernelEx(const LaunchConfig *config, Handle function, void **arguments, void **extra) {
    const Kernel *kernel = (const Kernel *)function;
    const unsigned *grid = config->grid, *block = config->block;
    read_arguments(kernel, arguments);
    const char *fault = refusal(kernel, grid, block, config->shared);
    tell("%slaunch %s grid %u,%u,%u block %u,%u,%u shared %u%s%s", fault ? "bad " : "", kernel->name, grid[0], grid[1],
         grid[2], block[0], block[1], block[2], config->shared, fault ? ": " : "", fault ? fault : "");
    return fault ? INVALID_VALUE : OK;
}

/* A description of memory that kernels of Hopper load by. */
int cuTensorMapEncodeTiled(void *map, int type, unsigned rank, void *address) {
    memset(map, 0, 128);
    int good = is_allocated((Address)address, 1) && (Address)address % 16 == 0;
    if (!good) tell("bad launch of a kernel with a tensor map: its memory is not the device's or not aligned");
    return good ? OK : INVALID_VALUE;
}

/* ---------------------------------------------------------------- recorded graphs */

/* The first of this name, which MAX calls, has no mode; cuda.h calls the second one by it. */
int cuStreamBeginCapture(Handle stream) { recording = stream; return OK; }
int cuStreamEndCapture(Handle stream, Handle *graph) { recording = NULL; *graph = new_handle(); return OK; }
int cuGraphLaunch(Handle executable, Handle stream) { tell("graph launch"); return OK; }
int cuGraphDestroy(Handle graph) { free(graph); return OK; }
int cuGraphExecDestroy(Handle executable) { free(executable); return OK; }

int cuGraphInstantiateWithParams(Handle *executable, Handle graph, InstantiateParams *params) {
    *executable = new_handle();
    params->result = OK;
    return OK;
}

/* ---------------------------------------------------------------- what MAX looks for and did not call */

#define UNSUPPORTED(name) int name(void) { tell("unsupported " #name); return NOT_SUPPORTED; }

UNSUPPORTED(cuCtxCreate_v2) UNSUPPORTED(cuCtxDestroy) UNSUPPORTED(cuCtxEnablePeerAccess)
UNSUPPORTED(cuCtxGetStreamPriorityRange) UNSUPPORTED(cuCtxPopCurrent) UNSUPPORTED(cuCtxPushCurrent)
UNSUPPORTED(cuDeviceCanAccessPeer) UNSUPPORTED(cuDeviceGetGraphMemAttribute) UNSUPPORTED(cuDeviceGetMemPool)
UNSUPPORTED(cuDeviceGetName) UNSUPPORTED(cuDeviceGetP2PAttribute) UNSUPPORTED(cuDevicePrimaryCtxRelease_v2)
UNSUPPORTED(cuEventDestroy) UNSUPPORTED(cuEventElapsedTime) UNSUPPORTED(cuEventSynchronize)
UNSUPPORTED(cuFuncGetAttribute) UNSUPPORTED(cuGraphAddChildGraphNode) UNSUPPORTED(cuGraphAddEmptyNode)
UNSUPPORTED(cuGraphAddKernelNode) UNSUPPORTED(cuGraphAddMemcpyNode) UNSUPPORTED(cuGraphAddMemsetNode)
UNSUPPORTED(cuGraphCreate) UNSUPPORTED(cuGraphDebugDotPrint) UNSUPPORTED(cuGraphInstantiate)
UNSUPPORTED(cuGraphInstantiateWithFlags) UNSUPPORTED(cuGraphKernelNodeSetAttribute) UNSUPPORTED(cuLaunchHostFunc)
UNSUPPORTED(cuLaunchKernel) UNSUPPORTED(cuMemAddressFree) UNSUPPORTED(cuMemAddressReserve)
UNSUPPORTED(cuMemAllocAsync) UNSUPPORTED(cuMemAllocHost_v2) UNSUPPORTED(cuMemCreate)
UNSUPPORTED(cuMemExportToShareableHandle) UNSUPPORTED(cuMemFreeAsync) UNSUPPORTED(cuMemFreeHost)
UNSUPPORTED(cuMemFree_v2) UNSUPPORTED(cuMemGetAddressRange_v2) UNSUPPORTED(cuMemGetAllocationGranularity)
UNSUPPORTED(cuMemGetHandleForAddressRange) UNSUPPORTED(cuMemHostAlloc) UNSUPPORTED(cuMemHostGetDevicePointer_v2)
UNSUPPORTED(cuMemHostRegister_v2) UNSUPPORTED(cuMemHostUnregister) UNSUPPORTED(cuMemMap)
UNSUPPORTED(cuMemPoolSetAccess) UNSUPPORTED(cuMemPoolTrimTo) UNSUPPORTED(cuMemRelease) UNSUPPORTED(cuMemSetAccess)
UNSUPPORTED(cuMemUnmap) UNSUPPORTED(cuMemcpyBatchAsync) UNSUPPORTED(cuMemcpyDtoD_v2) UNSUPPORTED(cuMemcpyDtoH_v2)
UNSUPPORTED(cuMemcpyHtoD_v2) UNSUPPORTED(cuMemcpyPeer) UNSUPPORTED(cuMemcpyPeerAsync) UNSUPPORTED(cuMemsetD16Async)
UNSUPPORTED(cuMemsetD16_v2) UNSUPPORTED(cuMemsetD2D32Async) UNSUPPORTED(cuMemsetD2D32_v2)
UNSUPPORTED(cuMemsetD32Async) UNSUPPORTED(cuMemsetD32_v2) UNSUPPORTED(cuMemsetD8_v2) UNSUPPORTED(cuModuleGetGlobal_v2)
UNSUPPORTED(cuModuleUnload) UNSUPPORTED(cuMulticastAddDevice) UNSUPPORTED(cuMulticastBindMem)
UNSUPPORTED(cuMulticastCreate) UNSUPPORTED(cuMulticastGetGranularity) UNSUPPORTED(cuMulticastUnbind)
UNSUPPORTED(cuOccupancyMaxActiveBlocksPerMultiprocessor) UNSUPPORTED(cuPointerGetAttributes)
UNSUPPORTED(cuPointerSetAttribute) UNSUPPORTED(cuStreamBeginCapture_v2) UNSUPPORTED(cuStreamDestroy)
UNSUPPORTED(cuStreamGetCaptureInfo_v2) UNSUPPORTED(cuStreamWaitValue64_v2) UNSUPPORTED(cuTensorMapEncodeIm2col)
