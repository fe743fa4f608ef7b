/* The load: SMTP clients on one thread, for what other generators do not do.
 *
 *     generator --port N [--host 127.0.0.1] [--mode MODE] [--count N] [--connections N]
 *               [--octets N] [--body FILE] [--end CODE] [--tls] [--sources N] [--seconds N]
 *               [--dot] [--shared]
 *
 * A mode is a script (see script.h): steps that are written at once, each with the codes of the
 * replies that have to come before the next step. count is that of messages, or of connections
 * where a mode has no messages. connections: how many are open at the same time; of `idle`, how
 * many are being set up at the same time. octets: of a message; its lines have 78, or it is what
 * FILE has, over and over, which must not end mail data. end: what the end of mail data is answered
 * with. dot: the time of a message begins where its octets do, not its commands. shared: connections
 * that are served faster send more of the messages; otherwise each sends as many as the others.
 * sources: addresses that are connected from, 127.0.0.1 and the next ones. seconds: after which it
 * gives up.
 *
 * It prints one line of JSON when all is done; `idle` prints it when all connections stand, and
 * then holds them until its standard input ends. It ends with status 1 and one line on stderr at
 * the first reply that is not what it should be.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/resource.h>
#include <time.h>
#include <unistd.h>
#include "script.h"
#ifdef WITH_TLS
#include <openssl/err.h>
#include <openssl/ssl.h>
#else
typedef void SSL;
#endif

enum { READ = 64 * 1024, EVENTS = 256, SHOWN = 80 };
enum phase { CONNECTING, SHAKING, TALKING, LEAVING };

struct client {
    int socket;
    enum phase phase;
    SSL *ssl;
    enum part part;
    int at;           /* step of the part */
    size_t sent;      /* octets of it */
    const char *due;  /* codes of its replies that have not come */
    long left;        /* messages of this connection */
    int columns;      /* octets of the line that has begun, up to 4 */
    char code[4];     /* the first of them */
    char shown[SHOWN + 1];
    int shown_length; /* of the same line, for whom it surprises */
    uint64_t began;   /* the message */
    uint32_t events;  /* that are asked for */
};

static struct {
    const char *host, *body, *end;
    int port, tls, dot, shared;
    long count, connections, octets, sources, seconds;
    struct mode *mode;
} given = {"127.0.0.1", NULL, "250", 0, 0, 0, 0, 1000, 20, 1024, 1, 60, MODES};

static int polling;
static long total, opened, ended, messages; /* connections, and what was sent through them */
static long unshared;                       /* messages that no connection has taken yet */
static uint32_t *times;                     /* nanoseconds of each message */
static char octets[READ];
#ifdef WITH_TLS
static SSL_CTX *context;
#endif

static uint64_t now(void)
{
    struct timespec time;
    clock_gettime(CLOCK_MONOTONIC, &time);
    return (uint64_t)time.tv_sec * 1000000000u + (uint64_t)time.tv_nsec;
}

static void too_late(int number)
{
    (void)number;
    static const char text[] = "generator: not done in the time that was given\n";
    if (write(STDERR_FILENO, text, sizeof text - 1) < 0)
        _exit(3);
    _exit(1);
}

/* One client. */

static struct step *step_of(struct client *c)
{
    return &given.mode->parts[c->part][c->at];
}

/* Enter the step that `part` and `at` name, or the first one behind it that there is. Returns 0
 * when there is none.
 */
static int enter(struct client *c)
{
    while (c->part < PARTS && (!step_of(c)->codes || (c->part == EACH && c->left <= given.mode->lead))) {
        c->part++;
        c->at = 0;
    }
    if (c->part == PARTS)
        return 0;
    c->sent = 0;
    c->due = step_of(c)->codes;
    if (given.dot && step_of(c)->with != NO_MESSAGE)
        c->began = now();
    return 1;
}

static void note_time(struct client *c)
{
    uint64_t end = now(), took = end - c->began;
    times[messages++] = took < UINT32_MAX ? (uint32_t)took : UINT32_MAX;
    c->began = end;
}

/* The replies of a step are there. Returns 0 when the script is done. */
static int advance(struct client *c)
{
    int carries = step_of(c)->with != NO_MESSAGE;
    enum part before = c->part;
    if (carries)
        note_time(c);
    c->at++;
    if (before == EACH && !step_of(c)->codes) {
        c->left--;
        if (given.shared && unshared > 0) {
            unshared--;
            c->left++;
        }
        c->at = 0;
    }
    if (!enter(c))
        return 0;
    if (before == OPENING)
        c->began = now();
    return 1;
}

static void want(struct client *c, uint32_t events)
{
    if (events == c->events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    if (epoll_ctl(polling, c->events ? EPOLL_CTL_MOD : EPOLL_CTL_ADD, c->socket, &event) < 0)
        die("epoll_ctl: %s", strerror(errno));
    c->events = events;
}

/* Both return the number of octets, 0 at the end of the stream (read only), -1 for later. */

#ifdef WITH_TLS
static ssize_t wait_for(struct client *c, int result)
{
    int error = SSL_get_error(c->ssl, result);
    if (error == SSL_ERROR_WANT_READ || error == SSL_ERROR_WANT_WRITE) {
        int unsent = c->phase == TALKING && c->sent < step_of(c)->length;
        want(c, error == SSL_ERROR_WANT_READ && !unsent ? EPOLLIN : EPOLLIN | EPOLLOUT);
        return -1;
    }
    if (error == SSL_ERROR_ZERO_RETURN)
        return 0;
    unsigned long reason = ERR_get_error();
    if (reason == 0 || c->phase == LEAVING) {
        ERR_clear_error();
        return 0;
    }
    die("TLS: %s", ERR_reason_error_string(reason));
}
#endif

static ssize_t receive(struct client *c)
{
#ifdef WITH_TLS
    if (c->ssl) {
        int got = SSL_read(c->ssl, octets, sizeof octets);
        return got > 0 ? got : wait_for(c, got);
    }
#endif
    ssize_t got = read(c->socket, octets, sizeof octets);
    if (got < 0 && errno != EAGAIN && errno != EINTR && c->phase != LEAVING)
        die("connection lost: %s", strerror(errno));
    return got < 0 && errno != EAGAIN && errno != EINTR ? 0 : got;
}

static ssize_t transmit(struct client *c, const char *data, size_t length)
{
#ifdef WITH_TLS
    if (c->ssl) {
        int done = SSL_write(c->ssl, data, length < 1 << 20 ? (int)length : 1 << 20);
        return done > 0 ? done : wait_for(c, done);
    }
#endif
    ssize_t done = write(c->socket, data, length);
    if (done < 0 && errno != EAGAIN && errno != EINTR)
        die("connection lost: %s", strerror(errno));
    if (done < 0)
        want(c, EPOLLIN | EPOLLOUT);
    return done;
}

static void send_step(struct client *c)
{
    struct step *step = step_of(c);
    while (c->sent < step->length) {
        ssize_t done = transmit(c, step->whole + c->sent, step->length - c->sent);
        if (done <= 0)
            return;
        c->sent += (size_t)done;
    }
    want(c, EPOLLIN);
}

static void open_next(void);

static void release(struct client *c)
{
#ifdef WITH_TLS
    if (c->ssl)
        SSL_free(c->ssl);
#endif
    close(c->socket);
    free(c);
    ended++;
    open_next();
}

/* The script is done: hold the connection, or say goodbye. Inside of TLS, and without QUIT, the
 * server has to say it too.
 */
static void finish(struct client *c)
{
    c->phase = LEAVING;
    want(c, EPOLLIN);
    if (given.mode->holds) {
        ended++;
        open_next();
        return;
    }
#ifdef WITH_TLS
    if (c->ssl) {
        SSL_shutdown(c->ssl);
        return;
    }
#endif
    if (given.mode->parts[CLOSING][0].codes) {
        release(c);
        return;
    }
    shutdown(c->socket, SHUT_WR);
}

/* A line has ended. Returns 0 when there is nothing more to do for this connection. */
static int take_line(struct client *c)
{
    int columns = c->columns;
    c->columns = 0;
    c->shown[c->shown_length] = '\0';
    c->shown_length = 0;
    if (columns == 4 && c->code[3] == '-')
        return 1;
    const char *due = strncmp(c->due, "END", 3) == 0 ? given.end : c->due;
    if (*due == '\0' || columns < 3 || memcmp(c->code, due, 3) != 0)
        die("%.3s was to come, and '%s' came", *due ? due : "nothing", c->shown);
    c->due += 3;
    if (*c->due != '\0' || c->sent < step_of(c)->length)
        return 1;
    if (!advance(c)) {
        finish(c);
        return 0;
    }
    send_step(c);
    return 1;
}

/* Returns 0 when the client is gone, or done. */
static int take(struct client *c, const char *data, size_t length)
{
    for (size_t at = 0; at < length; at++) {
        char octet = data[at];
        if (octet == '\n') {
            if (!take_line(c))
                return 0;
            continue;
        }
        if (c->columns < 4)
            c->code[c->columns++] = octet;
        if (c->shown_length < SHOWN && octet != '\r')
            c->shown[c->shown_length++] = octet;
    }
    return 1;
}

static void left_by_server(struct client *c)
{
    if (c->phase != LEAVING)
        die("the server has closed the connection, %.3s was to come", c->due);
    if (given.mode->holds)
        die("the server has closed a connection that was to be held");
    release(c);
}

static void read_replies(struct client *c)
{
    for (;;) {
        ssize_t got = receive(c);
        if (got < 0)
            return;
        if (got == 0) {
            left_by_server(c);
            return;
        }
        if (c->phase == LEAVING) {
            if (given.mode->holds)
                die("a connection that was to be held got '%.*s'", (int)(got < 60 ? got : 60), octets);
            continue;
        }
        if (!take(c, octets, (size_t)got))
            return;
        if (!c->ssl && got < READ)
            return;
    }
}

static void shake_hands(struct client *c)
{
#ifdef WITH_TLS
    int result = SSL_connect(c->ssl);
    if (result != 1) {
        if (wait_for(c, result) == 0)
            die("the server has closed the connection in the handshake");
        return;
    }
#endif
    c->phase = TALKING;
    want(c, EPOLLIN);
    read_replies(c);
}

static void connected(struct client *c)
{
    int error = 0;
    socklen_t size = sizeof error;
    getsockopt(c->socket, SOL_SOCKET, SO_ERROR, &error, &size);
    if (error)
        die("cannot connect to %s:%d: %s", given.host, given.port, strerror(error));
    c->phase = TALKING;
#ifdef WITH_TLS
    if (given.tls) {
        c->phase = SHAKING;
        c->ssl = SSL_new(context);
        if (!c->ssl || SSL_set_fd(c->ssl, c->socket) != 1)
            die("no memory for TLS");
        shake_hands(c);
        return;
    }
#endif
    want(c, EPOLLIN);
}

static void wake(struct client *c, uint32_t events)
{
    if (c->phase == CONNECTING) {
        connected(c);
    } else if (c->phase == SHAKING) {
        shake_hands(c);
    } else {
        if ((events & EPOLLOUT) && c->phase == TALKING)
            send_step(c);
        if (events & ~(uint32_t)EPOLLOUT)
            read_replies(c);
    }
}

static void open_client(long number)
{
    struct client *c = calloc(1, sizeof *c);
    struct sockaddr_in to = {.sin_family = AF_INET}, from = {.sin_family = AF_INET};
    int one = 1;
    if (!c || (c->socket = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0)) < 0)
        die("no socket for connection %ld: %s", number + 1, strerror(errno));
    setsockopt(c->socket, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    if (given.sources > 1) {
        from.sin_addr.s_addr = htonl(INADDR_LOOPBACK + (uint32_t)(number % given.sources));
        setsockopt(c->socket, IPPROTO_IP, IP_BIND_ADDRESS_NO_PORT, &one, sizeof one);
        if (bind(c->socket, (struct sockaddr *)&from, sizeof from) < 0)
            die("cannot send from 127.0.0.%ld: %s", 1 + number % given.sources, strerror(errno));
    }
    to.sin_port = htons((uint16_t)given.port);
    if (inet_pton(AF_INET, given.host, &to.sin_addr) != 1)
        die("%s is no IPv4 address", given.host);
    if (connect(c->socket, (struct sockaddr *)&to, sizeof to) < 0 && errno != EINPROGRESS)
        die("cannot connect to %s:%d: %s", given.host, given.port, strerror(errno));
    if (given.mode->empty)
        c->left = given.mode->holds && given.octets > 0;
    else if (given.mode->reconnects || given.shared)
        c->left = 1;
    else
        c->left = given.count / total + (number < given.count % total);
    enter(c);
    want(c, EPOLLOUT);
}

static void open_next(void)
{
    if (opened < total)
        open_client(opened++);
}

/* The whole. */

static int by_time(const void *one, const void *other)
{
    uint32_t a = *(const uint32_t *)one, b = *(const uint32_t *)other;
    return (a > b) - (a < b);
}

static double percentile(double share)
{
    return messages ? times[(long)((double)(messages - 1) * share)] / 1000.0 : 0.0;
}

static void tell(uint64_t began)
{
    double seconds = (double)(now() - began) / 1e9;
    qsort(times, (size_t)messages, sizeof *times, by_time);
    printf("{\"mode\": \"%s\", \"tls\": %s, \"connections\": %ld, \"messages\": %ld, ",
           given.mode->name, given.tls ? "true" : "false", ended, messages);
    printf("\"seconds\": %.6f, \"p50_us\": %.1f, \"p99_us\": %.1f, \"highest_us\": %.1f}\n", seconds,
           percentile(0.5), percentile(0.99), percentile(1.0));
    fflush(stdout);
}

/* Until all is done; of `idle` until standard input ends, and a connection that ends is an error. */
static void run(void)
{
    struct epoll_event events[EVENTS], event = {.events = EPOLLIN, .data.ptr = NULL};
    uint64_t began = now();
    int told = 0;
    for (long at = 0; at < given.connections && at < total; at++)
        open_next();
    for (;;) {
        if (ended == total && !told) {
            tell(began);
            told = 1;
            if (!given.mode->holds)
                return;
            if (epoll_ctl(polling, EPOLL_CTL_ADD, STDIN_FILENO, &event) < 0)
                return; /* a file, which has ended already */
        }
        int ready = epoll_wait(polling, events, EVENTS, -1);
        for (int at = 0; at < ready; at++) {
            if (events[at].data.ptr)
                wake(events[at].data.ptr, events[at].events);
            else if (read(STDIN_FILENO, octets, sizeof octets) <= 0)
                return;
        }
    }
}

static long number(const char *name, const char *text, long lowest, long highest)
{
    char *end;
    long value = strtol(text, &end, 10);
    if (*text == '\0' || *end != '\0' || value < lowest || value > highest) {
        fprintf(stderr, "generator: --%s takes %ld to %ld\n", name, lowest, highest);
        exit(2);
    }
    return value;
}

static struct mode *mode_of(const char *name)
{
    for (int at = 0; at < MODE_COUNT; at++)
        if (strcmp(MODES[at].name, name) == 0)
            return &MODES[at];
    fprintf(stderr, "generator: there is no mode '%s'\n", name);
    exit(2);
}

static void parse(int count, char **arguments)
{
    static const struct option options[] = {
        {"host", 1, 0, 'h'}, {"port", 1, 0, 'p'}, {"mode", 1, 0, 'm'}, {"count", 1, 0, 'n'},
        {"connections", 1, 0, 'c'}, {"octets", 1, 0, 'o'}, {"body", 1, 0, 'b'},
        {"end", 1, 0, 'e'}, {"tls", 0, 0, 't'}, {"dot", 0, 0, 'd'}, {"shared", 0, 0, 'r'}, {"sources", 1, 0, 's'}, {"seconds", 1, 0, 'u'},
        {0, 0, 0, 0},
    };
    for (int option; (option = getopt_long(count, arguments, "", options, NULL)) != -1;) {
        switch (option) {
        case 'h': given.host = optarg; break;
        case 'p': given.port = (int)number("port", optarg, 1, 65535); break;
        case 'm': given.mode = mode_of(optarg); break;
        case 'n': given.count = number("count", optarg, 1, 10000000); break;
        case 'c': given.connections = number("connections", optarg, 1, 100000); break;
        case 'o': given.octets = number("octets", optarg, 0, 1L << 30); break;
        case 'b': given.body = optarg; break;
        case 'e': given.end = optarg; break;
        case 't': given.tls = 1; break;
        case 'd': given.dot = 1; break;
        case 'r': given.shared = 1; break;
        case 's': given.sources = number("sources", optarg, 1, 250); break;
        case 'u': given.seconds = number("seconds", optarg, 1, 3600); break;
        default: exit(2);
        }
    }
    if (!given.port || optind < count || strlen(given.end) != 3) {
        fprintf(stderr, "generator: it takes --port, and options only; --end has three digits\n");
        exit(2);
    }
}

static void prepare_tls(void)
{
#ifdef WITH_TLS
    context = SSL_CTX_new(TLS_client_method());
    if (!context || !SSL_CTX_set_min_proto_version(context, TLS1_3_VERSION))
        die("no TLS 1.3 in this OpenSSL");
    SSL_CTX_set_verify(context, SSL_VERIFY_NONE, NULL); /* made a moment ago, for this run */
    SSL_CTX_set_mode(context, SSL_MODE_ENABLE_PARTIAL_WRITE | SSL_MODE_ACCEPT_MOVING_WRITE_BUFFER
                                  | SSL_MODE_RELEASE_BUFFERS);
    SSL_CTX_set_session_cache_mode(context, SSL_SESS_CACHE_OFF);
#else
    die("built without OpenSSL's headers, so there is no --tls");
#endif
}

int main(int count, char **arguments)
{
    struct rlimit files;
    parse(count, arguments);
    signal(SIGPIPE, SIG_IGN);
    signal(SIGALRM, too_late);
    alarm((unsigned)given.seconds);
    getrlimit(RLIMIT_NOFILE, &files);
    files.rlim_cur = files.rlim_max;
    setrlimit(RLIMIT_NOFILE, &files);
    if (given.tls)
        prepare_tls();
    make_steps(given.mode, (size_t)given.octets, given.body);
    total = given.mode->empty || given.mode->reconnects ? given.count : given.connections;
    if (total > given.count)
        total = given.count;
    if (given.shared && (given.mode->empty || given.mode->reconnects || given.mode->lead))
        die("messages of this mode cannot be shared");
    unshared = given.count - total;
    times = malloc(((size_t)given.count + 1) * sizeof *times);
    polling = epoll_create1(EPOLL_CLOEXEC);
    if (!times || polling < 0)
        die("no memory");
    run();
    return 0;
}
