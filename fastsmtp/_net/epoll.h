/* The system calls of epoll_transport.pyx: one epoll, and non-blocking sockets.
 *
 * Linux only. On other systems these functions compile and fail with ENOSYS, and the engine uses
 * the transports of its event loop. Each call returns a number of octets or a descriptor, or -1
 * with errno. A call that was interrupted by a signal is repeated.
 */
#ifndef FASTSMTP_EPOLL_H
#define FASTSMTP_EPOLL_H

#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    char text[64]; /* the address; empty for a UNIX socket */
    int port;
    int family; /* FS_UNIX, FS_INET, or FS_OTHER */
} fs_name;

enum { FS_OTHER = 0, FS_UNIX = 1, FS_INET = 2 };

#ifdef __linux__

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define FS_HAVE_EPOLL 1
#define FS_READABLE EPOLLIN
#define FS_WRITABLE EPOLLOUT
#define FS_BROKEN (EPOLLERR | EPOLLHUP)
#define FS_ERROR EPOLLERR

typedef struct epoll_event fs_event;

static inline int fs_epoll_new(void) { return epoll_create1(EPOLL_CLOEXEC); }

/* events: of FS_READABLE and FS_WRITABLE; FS_BROKEN is reported in any case. */
static inline int fs_epoll_set(int epoll, int fd, void *owner, uint32_t events, int is_there) {
    struct epoll_event event;
    event.events = events;
    event.data.ptr = owner;
    return epoll_ctl(epoll, is_there ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, fd, &event);
}

static inline void fs_epoll_forget(int epoll, int fd) {
    struct epoll_event event; /* required by kernels before 2.6.9 */
    epoll_ctl(epoll, EPOLL_CTL_DEL, fd, &event);
}

/* The error number of a socket that is broken; 0: both sides have sent FIN. */
static inline int fs_why_broken(int fd) {
    int number = 0;
    socklen_t size = sizeof(number);
    return getsockopt(fd, SOL_SOCKET, SO_ERROR, &number, &size) < 0 ? errno : number;
}

static inline int fs_epoll_look(int epoll, fs_event *events, int room) {
    int count;
    do {
        count = epoll_wait(epoll, events, room, 0);
    } while (count < 0 && errno == EINTR);
    return count;
}

static inline void *fs_event_owner(const fs_event *event) { return event->data.ptr; }
static inline uint32_t fs_event_kinds(const fs_event *event) { return event->events; }

static inline void fs_read_name(const struct sockaddr_storage *from, socklen_t size,
                                fs_name *name) {
    name->text[0] = '\0';
    name->port = 0;
    name->family = FS_OTHER;
    if (size < sizeof(sa_family_t)) {
        return;
    }
    if (from->ss_family == AF_INET) {
        const struct sockaddr_in *inet = (const struct sockaddr_in *)from;
        name->family = FS_INET;
        name->port = ntohs(inet->sin_port);
        inet_ntop(AF_INET, &inet->sin_addr, name->text, sizeof(name->text));
    } else if (from->ss_family == AF_INET6) {
        const struct sockaddr_in6 *inet6 = (const struct sockaddr_in6 *)from;
        name->family = FS_INET;
        name->port = ntohs(inet6->sin6_port);
        inet_ntop(AF_INET6, &inet6->sin6_addr, name->text, sizeof(name->text));
    } else if (from->ss_family == AF_UNIX) {
        name->family = FS_UNIX;
    }
}

static inline int fs_accept(int listener, fs_name *peer) {
    struct sockaddr_storage from;
    socklen_t size = sizeof(from);
    int fd;
    do {
        size = sizeof(from);
        fd = accept4(listener, (struct sockaddr *)&from, &size, SOCK_NONBLOCK | SOCK_CLOEXEC);
    } while (fd < 0 && errno == EINTR);
    if (fd >= 0) {
        fs_read_name(&from, size, peer);
    }
    return fd;
}

static inline int fs_own_name(int fd, fs_name *name) {
    struct sockaddr_storage own;
    socklen_t size = sizeof(own);
    if (getsockname(fd, (struct sockaddr *)&own, &size) < 0) {
        return -1;
    }
    fs_read_name(&own, size, name);
    return 0;
}

static inline ptrdiff_t fs_recv(int fd, char *octets, size_t room) {
    ptrdiff_t count;
    do {
        count = recv(fd, octets, room, 0);
    } while (count < 0 && errno == EINTR);
    return count;
}

static inline ptrdiff_t fs_send(int fd, const char *octets, size_t size) {
    ptrdiff_t count;
    do {
        count = send(fd, octets, size, MSG_NOSIGNAL);
    } while (count < 0 && errno == EINTR);
    return count;
}

static inline int fs_shutdown(int fd) { return shutdown(fd, SHUT_WR); }
static inline int fs_spare(void) { return open("/dev/null", O_RDONLY | O_CLOEXEC); }
static inline void fs_close(int fd) { close(fd); }

#else

#define FS_HAVE_EPOLL 0
#define FS_READABLE 1u
#define FS_WRITABLE 2u
#define FS_BROKEN 4u
#define FS_ERROR 8u

typedef struct {
    void *owner;
} fs_event;

static inline int fs_missing(void) {
    errno = ENOSYS;
    return -1;
}
static inline int fs_epoll_new(void) { return fs_missing(); }
static inline int fs_epoll_set(int epoll, int fd, void *owner, uint32_t events, int is_there) {
    return fs_missing();
}
static inline void fs_epoll_forget(int epoll, int fd) {}
static inline int fs_why_broken(int fd) { return ENOSYS; }
static inline int fs_epoll_look(int epoll, fs_event *events, int room) { return fs_missing(); }
static inline void *fs_event_owner(const fs_event *event) { return event->owner; }
static inline uint32_t fs_event_kinds(const fs_event *event) { return 0; }
static inline int fs_accept(int listener, fs_name *peer) { return fs_missing(); }
static inline int fs_own_name(int fd, fs_name *name) { return fs_missing(); }
static inline ptrdiff_t fs_recv(int fd, char *octets, size_t room) { return fs_missing(); }
static inline ptrdiff_t fs_send(int fd, const char *octets, size_t size) { return fs_missing(); }
static inline int fs_shutdown(int fd) { return fs_missing(); }
static inline int fs_spare(void) { return fs_missing(); }
static inline void fs_close(int fd) {}

#endif

static inline int fs_is_again(void) { return errno == EAGAIN || errno == EWOULDBLOCK; }
static inline int fs_is_out_of_descriptors(void) { return errno == EMFILE || errno == ENFILE; }
/* Whether an error of accept concerns one newcomer only. */
static inline int fs_is_of_one(void) { return errno == ECONNABORTED || errno == EPROTO || errno == EPERM; }
static inline int fs_errno(void) { return errno; }

#endif
