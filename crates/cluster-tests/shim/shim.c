// Preloaded into a node: makes its fsyncs slow and its wall clock wrong, as told by a file of two numbers
// (NETSY_SHIM_FILE: microseconds added to each fsync, nanoseconds added to the wall clock), which may change at any time.
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

struct told {
    volatile int64_t fsync_delay_us;
    volatile int64_t clock_offset_ns;
};

static struct told nothing;
static struct told *told = &nothing;
static int (*real_fsync)(int);
static int (*real_fdatasync)(int);
static int (*real_clock_gettime)(clockid_t, struct timespec *);

__attribute__((constructor)) static void begin(void) {
    real_fsync = dlsym(RTLD_NEXT, "fsync");
    real_fdatasync = dlsym(RTLD_NEXT, "fdatasync");
    real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    const char *path = getenv("NETSY_SHIM_FILE");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0) return;
    void *at = mmap(NULL, sizeof(struct told), PROT_READ, MAP_SHARED, file, 0);
    if (at != MAP_FAILED) told = at;
    close(file);
}

static void delay(void) {
    if (told->fsync_delay_us > 0) usleep((useconds_t)told->fsync_delay_us);
}

int fsync(int file) {
    delay();
    return real_fsync(file);
}

int fdatasync(int file) {
    delay();
    return real_fdatasync(file);
}

int clock_gettime(clockid_t clock, struct timespec *time) {
    if (!real_clock_gettime) real_clock_gettime = dlsym(RTLD_NEXT, "clock_gettime");
    int result = real_clock_gettime(clock, time);
    if (result == 0 && clock == CLOCK_REALTIME && told->clock_offset_ns != 0) {
        int64_t nanos = time->tv_nsec + told->clock_offset_ns;
        time->tv_sec += nanos / 1000000000;
        nanos %= 1000000000;
        if (nanos < 0) {
            nanos += 1000000000;
            time->tv_sec -= 1;
        }
        time->tv_nsec = nanos;
    }
    return result;
}
