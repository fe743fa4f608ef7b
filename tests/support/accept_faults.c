/* Fails every second accept of a process, each time with the next errno of a list; then none.
 *
 * Loaded by LD_PRELOAD. Environment: ACCEPT_FAULTS, numbers of errnos between commas.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/socket.h>

static int calls;

static int fault(void) {
    char *list = getenv("ACCEPT_FAULTS");
    if (list == NULL || ++calls % 2 == 0)
        return 0;
    for (int skip = calls / 2; skip > 0; skip--) {
        while (*list != '\0' && *list != ',')
            list++;
        if (*list == '\0')
            return 0;
        list++;
    }
    errno = atoi(list);
    return errno;
}

int accept4(int fd, struct sockaddr *address, socklen_t *length, int flags) {
    static int (*next)(int, struct sockaddr *, socklen_t *, int);
    if (next == NULL)
        next = (int (*)(int, struct sockaddr *, socklen_t *, int))dlsym(RTLD_NEXT, "accept4");
    return fault() ? -1 : next(fd, address, length, flags);
}

int accept(int fd, struct sockaddr *address, socklen_t *length) {
    static int (*next)(int, struct sockaddr *, socklen_t *);
    if (next == NULL)
        next = (int (*)(int, struct sockaddr *, socklen_t *))dlsym(RTLD_NEXT, "accept");
    return fault() ? -1 : next(fd, address, length);
}
