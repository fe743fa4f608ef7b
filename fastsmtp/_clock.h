/* The clock of time.monotonic, and a call in each child of fork(), which Windows does not have. */
#ifndef FASTSMTP_CLOCK_H
#define FASTSMTP_CLOCK_H

#ifdef _WIN32

#define WIN32_LEAN_AND_MEAN
#include <windows.h>

static inline double fs_monotonic(void)
{
#if PY_VERSION_HEX < 0x030D0000
    return (double)GetTickCount64() * 1e-3;
#else
    LARGE_INTEGER count, per_second;
    QueryPerformanceCounter(&count);
    QueryPerformanceFrequency(&per_second);
    return (double)count.QuadPart / (double)per_second.QuadPart;
#endif
}

static inline void fs_in_children(void (*function)(void)) { (void)function; }

#else

#include <pthread.h>
#include <time.h>

static inline double fs_monotonic(void)
{
    struct timespec moment;
    clock_gettime(CLOCK_MONOTONIC, &moment);
    return (double)moment.tv_sec + (double)moment.tv_nsec * 1e-9;
}

static inline void fs_in_children(void (*function)(void)) { pthread_atfork(NULL, NULL, function); }

#endif
#endif
