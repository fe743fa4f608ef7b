/* What a client of the load says, and what it is to be answered: modes, their steps, and the message.
 *
 * `generator.c` is the only one that includes this.
 */
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAIL "MAIL FROM:<a@x.example>\r\n"
#define RCPT "RCPT TO:<b@y.example>\r\n"
#define GROUP MAIL RCPT "DATA\r\n"
#define SUBJECT "Subject: one of many\r\n\r\n"

enum { LINE = 78, STEPS = 4, LEAST = sizeof SUBJECT - 1 + 3 };
enum part { OPENING, EACH, CLOSING, PARTS };

/* What is written at once: `octets`, behind them the message where `with` says so, and then `more`.
 * codes: three digits for each reply.
 */
enum with { NO_MESSAGE, DOTTED, CHUNKED };
struct step {
    const char *octets, *codes, *more;
    enum with with;
    char *whole; /* all of it, made at the start */
    size_t length;
};

/* each: for every message but the last `lead` ones, which are a matter of `closing`. */
struct mode {
    const char *name;
    int reconnects; /* a connection for each message */
    int holds;      /* connections are held when they stand */
    int empty;      /* there are no messages, connections are counted */
    int lead;
    struct step parts[PARTS][STEPS + 1];
};

#define GREETED {"", "220", "", 0, 0, 0}
#define OPENED GREETED, {"EHLO client.example\r\n", "250", "", 0, 0, 0}
#define LEFT {"QUIT\r\n", "221", "", 0, 0, 0}
#define WAITING \
    {MAIL, "250", "", 0, 0, 0}, {RCPT, "250", "", 0, 0, 0}, {"DATA\r\n", "354", "", 0, 0, 0}, \
    {"", "END", "", DOTTED, 0, 0}

static struct mode MODES[] = {
    /* connections that are kept, and a wait for each reply */
    {"wait", 0, 0, 0, 0, {{OPENED}, {WAITING}, {LEFT}}},
    /* the same with a connection for each message */
    {"conn", 1, 0, 0, 0, {{OPENED}, {WAITING}, {LEFT}}},
    /* RFC 2920: a message goes with the commands of the next one */
    {"pipe", 0, 0, 0, 1,
     {{OPENED, {GROUP, "250250354", "", 0, 0, 0}},
      {{"", "END250250354", GROUP, DOTTED, 0, 0}},
      {{"", "END", "", DOTTED, 0, 0}, LEFT}}},
    /* RFC 3030: all of a message goes at once */
    {"bdat", 0, 0, 0, 0, {{OPENED}, {{MAIL RCPT, "250250END", "", CHUNKED, 0, 0}}, {LEFT}}},
    /* connections that say EHLO, and no more; with octets, one message before that */
    {"idle", 0, 1, 1, 0, {{OPENED}, {WAITING}, {{0}}}},
    /* a greeting, and the end */
    {"greeting", 0, 0, 1, 0, {{GREETED}, {{0}}, {{0}}}},
};
enum { MODE_COUNT = sizeof MODES / sizeof MODES[0] };

__attribute__((noreturn)) static void die(const char *format, ...)
{
    va_list rest;
    va_start(rest, format);
    fprintf(stderr, "generator: ");
    vfprintf(stderr, format, rest);
    fprintf(stderr, "\n");
    exit(1);
}

static char *pattern_of_file(const char *body, size_t *length)
{
    FILE *file = fopen(body, "rb");
    char *pattern = malloc(1 << 20);
    if (!file || !pattern || (*length = fread(pattern, 1, 1 << 20, file)) == 0)
        die("cannot read %s", body);
    fclose(file);
    return pattern;
}

/* The message: at least a header, then lines up to `octets`, the last one ended by CRLF. A pattern
 * of a file is not cut, as far as it goes in at least once: its end may belong to its beginning.
 */
static char *message(size_t octets, const char *body, size_t *length)
{
    char line[LINE + 1] = {0}, *pattern = line;
    size_t size = LINE, done = 0;
    memset(line, 'x', LINE - 2);
    memcpy(line + LINE - 2, "\r\n", 2);
    if (body)
        pattern = pattern_of_file(body, &size);
    *length = octets > LEAST ? octets : LEAST;
    if (body && *length >= LEAST + size)
        *length -= (*length - LEAST) % size;
    char *whole = malloc(*length);
    if (!whole)
        die("no memory for the message");
    memcpy(whole, SUBJECT, done = sizeof SUBJECT - 1);
    for (; done < *length; done++)
        whole[done] = pattern[(done - (sizeof SUBJECT - 1)) % size];
    memcpy(whole + *length - 3, "x\r\n", 3); /* whatever the pattern was about to begin */
    if (pattern != line)
        free(pattern);
    return whole;
}

static void make_step(struct step *step, const char *text, size_t length)
{
    char command[64] = "", *to;
    if (step->with == CHUNKED)
        snprintf(command, sizeof command, "BDAT %zu LAST\r\n", length);
    if (step->with == NO_MESSAGE)
        length = 0;
    step->length = strlen(step->octets) + strlen(command) + length + strlen(step->more);
    step->length += step->with == DOTTED ? 3 : 0;
    to = step->whole = malloc(step->length + 1);
    if (!to)
        die("no memory for a step");
    to = stpcpy(stpcpy(to, step->octets), command);
    if (length > 0)
        to = mempcpy(to, text, length);
    stpcpy(stpcpy(to, step->with == DOTTED ? ".\r\n" : ""), step->more);
}

static void make_steps(struct mode *mode, size_t octets, const char *body)
{
    size_t length;
    char *text = message(octets, body, &length);
    for (int part = 0; part < PARTS; part++)
        for (struct step *step = mode->parts[part]; step->codes; step++)
            make_step(step, text, length);
    free(text);
}
