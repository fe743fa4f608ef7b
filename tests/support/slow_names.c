/* A resolver that answers nobody for a while: what needs one sleeps, then says that it failed.
 *
 * Loaded by LD_PRELOAD. Environment: SLOW_NAMES, seconds; SLOW_NAMES_MARK, a file to make before.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <fcntl.h>
#include <netdb.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static void sleep_on(void) {
    const char *seconds = getenv("SLOW_NAMES"), *mark = getenv("SLOW_NAMES_MARK");
    struct timespec left = {seconds == NULL ? 0 : atoi(seconds), 0};
    if (mark != NULL)
        close(open(mark, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
    while (nanosleep(&left, &left) != 0)
        ;
}

int getaddrinfo(const char *node, const char *service, const struct addrinfo *hints,
                struct addrinfo **found) {
    static int (*next)(const char *, const char *, const struct addrinfo *, struct addrinfo **);
    if (next == NULL)
        *(void **)&next = dlsym(RTLD_NEXT, "getaddrinfo");
    if (node == NULL || strcmp(node, "slow.example") != 0 ||
        (hints != NULL && (hints->ai_flags & AI_NUMERICHOST)))
        return next(node, service, hints, found);
    sleep_on();
    return EAI_AGAIN;
}

int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t room,
                char *service, socklen_t more, int flags) {
    (void)address, (void)length, (void)host, (void)room, (void)service, (void)more, (void)flags;
    sleep_on();
    return EAI_AGAIN;
}
