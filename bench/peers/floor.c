/* The floor: what the kernel alone asks of a server for the same messages, `floor PORT`.
 *
 * One thread, epoll, one read and one write per wake-up, canned replies. Commands are told apart by
 * their verb, and nothing else of them is read. What is right nevertheless: lines, mail data and
 * chunks may be cut into reads anywhere, any number of them may be in one, and mail data ends with
 * CRLF.CRLF only. What is missing is what a server is for: states, addresses, limits, deadlines,
 * and a buffer for replies that nobody takes (such a client is cut off).
 *
 * It listens on 127.0.0.1 and ends by a signal.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

enum {
    READ = 256 * 1024, /* octets of one read, about what uvloop asks for */
    REPLIES = 64 * 1024,
    LINE = 64, /* octets of a line that are kept: a verb, and the argument of BDAT */
    EVENTS = 256,
    BACKLOG = 1024,
};

enum mode { COMMANDS, MAIL_DATA, CHUNK };

struct connection {
    enum mode mode;
    int matched;       /* octets of CRLF.CRLF that the mail data so far ends with */
    size_t chunk_left; /* octets of the chunk that have not come */
    size_t length;     /* of the line that has begun, cut to LINE */
    char line[LINE];
};

static const char END[] = "\r\n.\r\n";
enum { WHOLE = sizeof END - 1 };

static struct connection *connections; /* by descriptor */
static char octets[READ];
static char replies[REPLIES];
static size_t replied;

static void reply(const char *text, size_t length)
{
    if (replied + length <= sizeof replies) {
        memcpy(replies + replied, text, length);
        replied += length;
    }
}

#define REPLY(text) reply(text "\r\n", sizeof(text "\r\n") - 1)

static void die(const char *what)
{
    perror(what);
    exit(1);
}

/* What the last read left open goes on here, octet by octet: a few at most, for matched is 0 as
 * soon as one does not fit. Returns how many octets were taken.
 */
static size_t go_on_matching(struct connection *c, const char *data, size_t length)
{
    size_t at = 0;
    while (c->matched > 0 && c->matched < WHOLE && at < length) {
        if (data[at] == END[c->matched]) {
            c->matched++;
            at++;
        } else if (data[at] == '\r') {
            c->matched = 1;
            at++;
        } else {
            c->matched = 0;
        }
    }
    return at;
}

/* Returns how many octets are mail data; at its end c->matched is WHOLE. */
static size_t take_mail_data(struct connection *c, const char *data, size_t length)
{
    size_t start = go_on_matching(c, data, length);
    if (c->matched > 0)
        return start; /* the end, or nothing is left of the read */
    const char *from = data + start, *end = data + length, *dot;
    for (const char *at = from; (dot = memchr(at, '.', end - at)) != NULL; at = dot + 1) {
        if (dot - from < 2 || dot[-2] != '\r' || dot[-1] != '\n')
            continue;
        int matched = 3;
        while (matched < WHOLE && dot + matched - 2 < end && dot[matched - 2] == END[matched])
            matched++;
        if (matched == WHOLE || dot + matched - 2 == end) {
            c->matched = matched;
            return dot + matched - 2 - data;
        }
    }
    if (end - from >= 2 && end[-2] == '\r' && end[-1] == '\n')
        c->matched = 2;
    else if (end > from && end[-1] == '\r')
        c->matched = 1;
    return length;
}

/* Returns 0 when the connection is to be closed. */
static int take_command(struct connection *c)
{
    const char *line = c->line;
    if (c->length >= 4 && memcmp(line, "DATA", 4) == 0) {
        c->mode = MAIL_DATA;
        c->matched = 2; /* a line has just ended */
        REPLY("354 go on");
    } else if (c->length >= 4 && memcmp(line, "BDAT", 4) == 0) {
        c->chunk_left = strtoul(line + 4, NULL, 10);
        c->mode = CHUNK;
    } else if (c->length >= 4 && memcmp(line, "EHLO", 4) == 0) {
        REPLY("250-floor\r\n250-PIPELINING\r\n250 CHUNKING");
    } else if (c->length >= 4 && memcmp(line, "QUIT", 4) == 0) {
        REPLY("221 2.0.0 bye");
        return 0;
    } else {
        REPLY("250 2.0.0 OK");
    }
    return 1;
}

/* Returns how many octets belong to the line; *open becomes 0 when it was the last one. */
static size_t take_line(struct connection *c, const char *data, size_t length, int *open)
{
    const char *newline = memchr(data, '\n', length);
    size_t taken = newline ? (size_t)(newline + 1 - data) : length;
    size_t kept = LINE - 1 - c->length < taken ? LINE - 1 - c->length : taken;
    memcpy(c->line + c->length, data, kept);
    c->length += kept;
    if (newline) {
        c->line[c->length] = '\0';
        *open = take_command(c);
        c->length = 0;
    }
    return taken;
}

/* Returns 0 when the connection is to be closed. */
static int take(struct connection *c, const char *data, size_t length)
{
    int open = 1;
    while (open && (length > 0 || (c->mode == CHUNK && c->chunk_left == 0))) {
        size_t taken;
        if (c->mode == COMMANDS) {
            taken = take_line(c, data, length, &open);
        } else if (c->mode == MAIL_DATA) {
            taken = take_mail_data(c, data, length);
            if (c->matched == WHOLE) {
                c->mode = COMMANDS;
                REPLY("250 2.0.0 OK");
            }
        } else {
            taken = length < c->chunk_left ? length : c->chunk_left;
            c->chunk_left -= taken;
            if (c->chunk_left == 0) {
                c->mode = COMMANDS;
                REPLY("250 2.0.0 OK");
            }
        }
        data += taken;
        length -= taken;
    }
    return open;
}

static void serve(int socket)
{
    ssize_t length = read(socket, octets, sizeof octets);
    if (length < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    replied = 0;
    int open = length > 0 && take(&connections[socket], octets, length);
    if (replied > 0 && write(socket, replies, replied) != (ssize_t)replied)
        open = 0;
    if (!open)
        close(socket);
}

static void welcome(int listener, int poll, int limit)
{
    int socket = accept4(listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (socket < 0)
        return;
    struct epoll_event event = {.events = EPOLLIN, .data.fd = socket};
    int one = 1;
    if (socket >= limit || epoll_ctl(poll, EPOLL_CTL_ADD, socket, &event) < 0) {
        close(socket);
        return;
    }
    setsockopt(socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    memset(&connections[socket], 0, sizeof connections[socket]);
    replied = 0;
    REPLY("220 floor ESMTP");
    if (write(socket, replies, replied) != (ssize_t)replied)
        close(socket);
}

static int listening(int port)
{
    struct sockaddr_in address = {.sin_family = AF_INET, .sin_port = htons((unsigned short)port)};
    address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    int listener = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;
    if (listener < 0)
        die("socket");
    setsockopt(listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one);
    if (bind(listener, (struct sockaddr *)&address, sizeof address) < 0)
        die("bind");
    if (listen(listener, BACKLOG) < 0)
        die("listen");
    return listener;
}

int main(int count, char **arguments)
{
    int port = count == 2 ? atoi(arguments[1]) : 0;
    if (port <= 0 || port > 65535) {
        fprintf(stderr, "usage: floor PORT\n");
        return 2;
    }
    struct rlimit files;
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    int limit = files.rlim_cur < 1 << 20 ? (int)files.rlim_cur : 1 << 20;
    connections = calloc(limit, sizeof *connections);
    int listener = listening(port), poll = epoll_create1(EPOLL_CLOEXEC);
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.fd = listener};
    if (!connections || poll < 0 || epoll_ctl(poll, EPOLL_CTL_ADD, listener, &event) < 0)
        die("epoll");
    for (;;) {
        int ready = epoll_wait(poll, events, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            if (events[at].data.fd == listener)
                welcome(listener, poll, limit);
            else
                serve(events[at].data.fd);
        }
    }
}
