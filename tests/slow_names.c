/* A resolver that answers nobody for a while: getnameinfo sleeps, then says that it failed.
 *
 * Loaded by LD_PRELOAD. Environment: SLOW_NAMES, seconds.
 */
#define _GNU_SOURCE
#include <netdb.h>
#include <stdlib.h>
#include <time.h>

int getnameinfo(const struct sockaddr *address, socklen_t length, char *host, socklen_t room,
                char *service, socklen_t more, int flags) {
    const char *seconds = getenv("SLOW_NAMES");
    struct timespec left = {seconds == NULL ? 0 : atoi(seconds), 0};
    (void)address, (void)length, (void)host, (void)room, (void)service, (void)more, (void)flags;
    while (nanosleep(&left, &left) != 0)
        ;
    return EAI_AGAIN;
}
