/* Puts faults into the system calls of a process that works in one directory, and tells their order.
 *
 * Loaded by LD_PRELOAD. Environment: FAULT_DIR, the directory whose files are watched (sockets are
 * always); FAULT_ORDER, a file that holds at most one order; FAULT_TRACE, a file to which every
 * watched call is appended as "<call> <result> <path>", and "fired" for an order that was carried out.
 *
 * An order is "<serial> <call> <k> <action> <then>": at the k-th <call> since the order with this serial was
 * first seen, do <action>: the number of an errno, that number with a minus (the call is made, and
 * its success is lost), or with a plus (this call and all later ones fail), "kill-before", "kill-after", or "wait", which opens
 * the FIFO FAULT_GATE for reading and so waits for somebody to open it for writing. After that the
 * next call <then> fails with EIO, unless it is "-".
 * Calls: open, write, fsync, fsync_directory, syncfs, link, rename, unlink, truncate, reply (a socket is sent
 * the acceptance of a message); flock, which is not in the trace. Those that take a descriptor of a directory have the same names.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/uio.h>
#include <unistd.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static long serial_seen = -1;
static int calls_seen, fired;

/* The calls of the shim itself go to the kernel directly, or they would come back here. */
static void note(const char *call, long result, const char *path) {
    const char *name = getenv("FAULT_TRACE");
    char line[4400];
    if (name == NULL)
        return;
    int length = snprintf(line, sizeof line, "%s %ld %s\n", call, result, path);
    int file = syscall(SYS_openat, AT_FDCWD, name, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (file >= 0) {
        if (syscall(SYS_write, file, line, length) < 0)
            abort();
        syscall(SYS_close, file);
    }
}

static void die(void) {
    syscall(SYS_kill, (long)getpid(), SIGKILL);
    for (;;)
        pause();
}

enum { DIE_BEFORE = -10001, DIE_AFTER = -10002 };

/* What to do at this call: 0 nothing, else an errno, or a negative one. */
static int ordered(const char *call) {
    const char *name = getenv("FAULT_ORDER");
    char text[128] = "", wanted[32], action[32], then[32];
    long serial;
    int k, what = 0;
    if (name == NULL)
        return 0;
    int file = syscall(SYS_openat, AT_FDCWD, name, O_RDONLY, 0);
    if (file < 0)
        return 0;
    long length = syscall(SYS_read, file, text, sizeof text - 1);
    syscall(SYS_close, file);
    if (length <= 0 || sscanf(text, "%ld %31s %d %31s %31s", &serial, wanted, &k, action, then) != 5)
        return 0;
    pthread_mutex_lock(&lock);
    if (serial != serial_seen) {
        serial_seen = serial;
        calls_seen = fired = 0;
    }
    int is_lasting = action[0] == '+';
    int due = strcmp(call, wanted) == 0 && (++calls_seen == k || (is_lasting && calls_seen > k));
    int due_then = fired == 1 && strcmp(call, then) == 0;
    fired += due || due_then;
    pthread_mutex_unlock(&lock);
    if (due_then)
        return EIO;
    if (!due)
        return 0;
    note("fired", 0, call);
    if (strcmp(action, "kill-before") == 0)
        what = DIE_BEFORE;
    else if (strcmp(action, "kill-after") == 0)
        what = DIE_AFTER;
    else if (strcmp(action, "wait") == 0) {
        int gate = syscall(SYS_openat, AT_FDCWD, getenv("FAULT_GATE"), O_RDONLY, 0);
        syscall(SYS_close, gate);
    } else
        what = atoi(action);
    return what;
}

static int watched(const char *path) {
    const char *directory = getenv("FAULT_DIR");
    return directory != NULL && path != NULL && strncmp(path, directory, strlen(directory)) == 0;
}

static int path_of(int descriptor, char *path, size_t room) {
    char link[64];
    snprintf(link, sizeof link, "/proc/self/fd/%d", descriptor);
    long length = syscall(SYS_readlinkat, AT_FDCWD, link, path, room - 1);
    path[length > 0 ? length : 0] = 0;
    return watched(path);
}

/* The whole path of a name in a directory. */
static int path_at(int directory, const char *name, char *path, size_t room) {
    if (directory == AT_FDCWD || name[0] == '/') {
        snprintf(path, room, "%s", name);
        return watched(path);
    }
    path_of(directory, path, room);
    size_t length = strlen(path);
    snprintf(path + length, room - length, "/%s", name);
    return watched(path);
}

#define GUARDED(call, path, expression)                 \
    do {                                                \
        int what = ordered(call);                       \
        if (what > 0) {                                 \
            note(call, -what, path);                    \
            errno = what;                               \
            return -1;                                  \
        }                                               \
        if (what == DIE_BEFORE)                                 \
            die();                                      \
        __typeof__(expression) result = (expression);   \
        int kept = errno;                               \
        note(call, result < 0 ? -kept : (long)result, path); \
        if (what == DIE_AFTER)                          \
            die();                                      \
        errno = what < 0 ? -what : kept;                \
        return what < 0 ? -1 : result;                                  \
    } while (0)

#define REAL(name, ...) ((__typeof__(&name))dlsym(RTLD_NEXT, #name))(__VA_ARGS__)

#define OPEN(name)                                                     \
    int name(const char *path, int flags, ...) {                       \
        va_list more;                                                  \
        va_start(more, flags);                                         \
        int mode = flags & O_CREAT ? va_arg(more, int) : 0;            \
        va_end(more);                                                  \
        if (!watched(path) || !(flags & O_CREAT))                      \
            return REAL(name, path, flags, mode);                      \
        GUARDED("open", path, REAL(name, path, flags, mode));          \
    }
OPEN(open)
OPEN(open64)

#define OPENAT(name)                                                      \
    int name(int directory, const char *file, int flags, ...) {           \
        char path[4400];                                                  \
        va_list more;                                                     \
        va_start(more, flags);                                            \
        int mode = flags & O_CREAT ? va_arg(more, int) : 0;               \
        va_end(more);                                                     \
        if (!(flags & O_CREAT) || !path_at(directory, file, path, sizeof path)) \
            return REAL(name, directory, file, flags, mode);              \
        GUARDED("open", path, REAL(name, directory, file, flags, mode));  \
    }
OPENAT(openat)
OPENAT(openat64)

/* An acceptance, as the gateway words it. */
static int is_reply(int descriptor, const void *octets, size_t length) {
    struct stat facts;
    return length > 4 && memmem(octets, length, "OK: message ", 12) != NULL &&
           fstat(descriptor, &facts) == 0 && S_ISSOCK(facts.st_mode);
}

ssize_t write(int descriptor, const void *octets, size_t length) {
    char path[4200];
    if (is_reply(descriptor, octets, length))
        GUARDED("reply", "-", REAL(write, descriptor, octets, length));
    if (!path_of(descriptor, path, sizeof path))
        return REAL(write, descriptor, octets, length);
    GUARDED("write", path, REAL(write, descriptor, octets, length));
}

ssize_t writev(int descriptor, const struct iovec *parts, int count) {
    for (int part = 0; part < count; part++)
        if (is_reply(descriptor, parts[part].iov_base, parts[part].iov_len))
            GUARDED("reply", "-", REAL(writev, descriptor, parts, count));
    return REAL(writev, descriptor, parts, count);
}

ssize_t send(int descriptor, const void *octets, size_t length, int flags) {
    if (is_reply(descriptor, octets, length))
        GUARDED("reply", "-", REAL(send, descriptor, octets, length, flags));
    return REAL(send, descriptor, octets, length, flags);
}

ssize_t sendmsg(int descriptor, const struct msghdr *message, int flags) {
    for (size_t part = 0; part < message->msg_iovlen; part++)
        if (is_reply(descriptor, message->msg_iov[part].iov_base, message->msg_iov[part].iov_len))
            GUARDED("reply", "-", REAL(sendmsg, descriptor, message, flags));
    return REAL(sendmsg, descriptor, message, flags);
}

#define PWRITE(name)                                                                   \
    ssize_t name(int descriptor, const void *octets, size_t length, off_t place) {     \
        char path[4200];                                                               \
        if (!path_of(descriptor, path, sizeof path))                                   \
            return REAL(name, descriptor, octets, length, place);                      \
        GUARDED("write", path, REAL(name, descriptor, octets, length, place));         \
    }
PWRITE(pwrite)
PWRITE(pwrite64)

int fdatasync(int descriptor) {
    char path[4200];
    if (!path_of(descriptor, path, sizeof path))
        return REAL(fdatasync, descriptor);
    GUARDED("fsync", path, REAL(fdatasync, descriptor));
}

#define FTRUNCATE(name)                                                      \
    int name(int descriptor, off_t length) {                                 \
        char path[4200];                                                     \
        if (!path_of(descriptor, path, sizeof path))                         \
            return REAL(name, descriptor, length);                           \
        GUARDED("truncate", path, REAL(name, descriptor, length));           \
    }
FTRUNCATE(ftruncate)
FTRUNCATE(ftruncate64)

int fsync(int descriptor) {
    char path[4200];
    struct stat facts;
    if (!path_of(descriptor, path, sizeof path) || fstat(descriptor, &facts) != 0)
        return REAL(fsync, descriptor);
    GUARDED(S_ISDIR(facts.st_mode) ? "fsync_directory" : "fsync", path, REAL(fsync, descriptor));
}

int flock(int descriptor, int operation) {
    char path[4200];
    int what = path_of(descriptor, path, sizeof path) ? ordered("flock") : 0;
    if (what <= 0)
        return REAL(flock, descriptor, operation);
    errno = what;
    return -1;
}

int link(const char *from, const char *to) {
    if (!watched(from))
        return REAL(link, from, to);
    GUARDED("link", to, REAL(link, from, to));
}

int linkat(int from_directory, const char *from, int to_directory, const char *to, int flags) {
    char path[4400];
    if (!path_at(to_directory, to, path, sizeof path))
        return REAL(linkat, from_directory, from, to_directory, to, flags);
    GUARDED("link", path, REAL(linkat, from_directory, from, to_directory, to, flags));
}

int renameat(int from_directory, const char *from, int to_directory, const char *to) {
    char path[4400];
    if (!path_at(to_directory, to, path, sizeof path))
        return REAL(renameat, from_directory, from, to_directory, to);
    GUARDED("rename", path, REAL(renameat, from_directory, from, to_directory, to));
}

int unlinkat(int directory, const char *name, int flags) {
    char path[4400];
    if (!path_at(directory, name, path, sizeof path))
        return REAL(unlinkat, directory, name, flags);
    GUARDED("unlink", path, REAL(unlinkat, directory, name, flags));
}

int syncfs(int descriptor) {
    char path[4200];
    if (!path_of(descriptor, path, sizeof path))
        return REAL(syncfs, descriptor);
    GUARDED("syncfs", path, REAL(syncfs, descriptor));
}

int rename(const char *from, const char *to) {
    if (!watched(from))
        return REAL(rename, from, to);
    GUARDED("rename", to, REAL(rename, from, to));
}

int unlink(const char *path) {
    if (!watched(path))
        return REAL(unlink, path);
    GUARDED("unlink", path, REAL(unlink, path));
}
