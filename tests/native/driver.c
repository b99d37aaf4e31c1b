/* driver: the C core's buffers and bounds, under the sanitizers, held against plain models.
 *
 * driver TEST: runs one test; silence and 0 mean that it holds. Any report of a sanitizer ends it.
 */
#define _GNU_SOURCE
#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "capture.h"
#include "launch.h"
#include "steps.h"
#include "sys.h"

/* SYS_pidfd_open by its number: the host of a capture needs some pidfd. */
static int own_pidfd(void)
{
    int fd = (int)sys2(SYS_pidfd_open, getpid(), 0);
    assert(fd >= 0);
    return fd;
}

static unsigned seed = 1;

static size_t below(size_t n)
{
    seed = seed * 1103515245 + 12345;
    return n ? (seed >> 8) % n : 0;
}

static char *noise(size_t size)
{
    char *data = malloc(size + 1);
    for (size_t i = 0; i < size; i++)
        data[i] = (char)('a' + below(26));
    return data;
}

/* What a sink must hold of `data`, and its file. */
static void hold_against(const struct sink *s, const char *data, size_t size, int64_t limit)
{
    size_t most_head = limit == NO_LIMIT ? size : (size_t)(limit - limit / 2);
    size_t most_tail = limit == NO_LIMIT ? 0 : (size_t)(limit / 2);
    size_t kept_head = size < most_head ? size : most_head;
    size_t tail = size - kept_head < most_tail ? size - kept_head : most_tail;
    char *out = malloc(s->ring_used + 1);
    assert(s->total == size);
    assert(s->head_used == kept_head);
    assert(s->ring_used == tail);
    assert(sink_dropped(s) == size - kept_head - tail);
    assert(!memcmp(s->head ? s->head : "", data, kept_head));
    sink_tail(s, out);
    assert(!memcmp(out, data + size - tail, tail));
    free(out);
}

static void hold_file(int fd, const char *data, size_t size)
{
    char *file = malloc(size + 1);
    assert(lseek(fd, 0, SEEK_END) == (off_t)size);
    assert(pread(fd, file, size, 0) == (ssize_t)size);
    assert(!memcmp(file, data, size));
    free(file);
}

static void feed_sink(int64_t limit, size_t size, size_t most, int spill)
{
    struct sink s;
    char *data = noise(size);
    int fd = spill ? memfd_create("spill", 0) : -1;
    assert(!sink_init(&s, limit, fd));
    for (size_t at = 0; at < size;) {
        size_t room, n = 1 + below(most);
        char *to = sink_room(&s, &room);
        assert(to && room);
        n = n < room ? n : room;
        n = n < size - at ? n : size - at;
        memcpy(to, data + at, n);
        assert(!sink_filled(&s, n));
        at += n;
    }
    hold_against(&s, data, size, limit);
    if (spill) {
        int whole = limit != NO_LIMIT && size > (size_t)limit;
        hold_file(fd, data, whole ? size : 0);
        assert(!s.spill_error);
        close(fd);
    }
    sink_free(&s);
    free(data);
}

static void test_sink(void)
{
    static const int64_t limits[] = {NO_LIMIT, 0, 1, 2, 3, 7, 100, 65535, 65536, 65537, 131073};
    static const size_t sizes[] = {0, 1, 2, 3, 6, 7, 8, 99, 101, 65536, 65537, 200000, 300001};
    for (size_t l = 0; l < sizeof limits / sizeof *limits; l++)
        for (size_t n = 0; n < sizeof sizes / sizeof *sizes; n++)
            for (int spill = 0; spill < 2; spill++) {
                feed_sink(limits[l], sizes[n], 1000, spill);
                feed_sink(limits[l], sizes[n], 70000, spill);
            }
    for (int i = 0; i < 300; i++)
        feed_sink((int64_t)below(3000), below(9000), 1 + below(2000), (int)below(2));
}

/* A file that fails in the middle: its errno stays, everything is drained, head and tail are kept. */
static void test_spill_error(void)
{
    struct sink s;
    size_t room;
    int fd = open("/dev/full", O_WRONLY);
    assert(fd >= 0 && !sink_init(&s, 10, fd));
    for (int i = 0; i < 10; i++) {
        char *to = sink_room(&s, &room);
        memset(to, 'a' + i, 100);
        assert(!sink_filled(&s, 100));
    }
    assert(s.spill_error == ENOSPC && s.total == 1000 && sink_dropped(&s) == 990);
    sink_free(&s);
    close(fd);
}

/* Memory does not grow with what is dropped. */
static void test_sink_is_bounded(void)
{
    struct sink s;
    size_t room;
    assert(!sink_init(&s, 1000, -1));
    for (int i = 0; i < 5000; i++) {
        char *to = sink_room(&s, &room);
        memset(to, 'x', room);
        assert(!sink_filled(&s, room));
    }
    assert(s.head_size <= 4 * 65536 && s.head_used == 500 && s.ring_used == 500);
    sink_free(&s);
}

struct writer {
    int fd;
    const char *data;
    size_t size;
};

static void *write_all(void *arg)
{
    struct writer *w = arg;
    for (size_t at = 0; at < w->size;) {
        size_t n = 1 + (at * 7919) % 100000;
        ssize_t got = write(w->fd, w->data + at, n < w->size - at ? n : w->size - at);
        assert(got > 0);
        at += (size_t)got;
    }
    close(w->fd);
    return NULL;
}

static void *read_some(void *arg)
{
    struct writer *r = arg;
    static char buffer[4096];
    for (size_t at = 0; at < r->size;) {
        ssize_t got = read(r->fd, buffer, sizeof buffer);
        assert(got > 0 && !memcmp(buffer, r->data + at, (size_t)got));
        at += (size_t)got;
    }
    close(r->fd);
    return NULL;
}

/* Two outputs and an input at once, through pipes, each side in a thread of its own. */
static void move_both_ways(int watched)
{
    struct capture c;
    int out[2], err[2], in[2], pidfd = own_pidfd();
    size_t size = 3000000;
    char *data = noise(size);
    pthread_t threads[3];
    assert(!pipe(out) && !pipe(err) && !pipe(in));
    int outputs[CAPTURE_OUTPUTS] = {out[0], err[0]}, spill[CAPTURE_OUTPUTS] = {-1, memfd_create("spill", 0)};
    assert(!capture_init(&c, pidfd, in[1], data, size, outputs, 5000, spill));
    assert(!watched || !capture_watch(&c));
    struct writer w[3] = {{out[1], data, size}, {err[1], data, size}, {in[0], data, size}};
    pthread_create(&threads[0], NULL, write_all, &w[0]);
    pthread_create(&threads[1], NULL, write_all, &w[1]);
    pthread_create(&threads[2], NULL, read_some, &w[2]);
    assert(capture_run(&c, -1, CAPTURE_OPEN | CAPTURE_INPUT) == CAPTURE_ALIVE);
    for (int i = 0; i < 3; i++)
        pthread_join(threads[i], NULL);
    for (int i = 0; i < CAPTURE_OUTPUTS; i++)
        hold_against(&c.output[i], data, size, 5000);
    hold_file(spill[1], data, size);
    capture_free(&c);
    capture_free(&c); /* twice is nothing */
    close(spill[1]);
    close(pidfd);
    free(data);
}

static void test_capture(void)
{
    move_both_ways(0);
    move_both_ways(1); /* as an event loop does, through epoll */
}

/* A reader that goes away ends the input quietly, with SIGPIPE at its default. */
static void test_capture_without_reader(void)
{
    for (size_t size = 0; size < 300000; size += 99999) {
        struct capture c;
        int in[2], pidfd = own_pidfd(), none[CAPTURE_OUTPUTS] = {-1, -1};
        char *data = noise(size);
        assert(!pipe(in));
        assert(!capture_init(&c, pidfd, in[1], data, size, none, NO_LIMIT, none));
        close(in[0]);
        assert(capture_run(&c, -1, CAPTURE_INPUT) == CAPTURE_ALIVE);
        capture_free(&c);
        close(pidfd);
        free(data);
    }
}

/* The deadline holds while a stream never ends and never dries up. */
static void test_capture_deadline(void)
{
    struct capture c;
    int pidfd = own_pidfd(), none[CAPTURE_OUTPUTS] = {-1, -1};
    int outputs[CAPTURE_OUTPUTS] = {open("/dev/zero", O_RDONLY), -1};
    assert(!capture_init(&c, pidfd, -1, NULL, 0, outputs, 10, none));
    int state = capture_run(&c, clock_ns() + 1000000, CAPTURE_OPEN);
    assert(state == (CAPTURE_OPEN | CAPTURE_ALIVE));
    assert(capture_run(&c, 0, CAPTURE_OPEN) == state && capture_run(&c, 1, CAPTURE_OPEN) == state);
    assert(c.output[0].total > 10 && sink_dropped(&c.output[0]) == c.output[0].total - 10);
    capture_free(&c);
    close(pidfd);
}

/* Every operation that there is or is not: what it reads of the blob is stated, slots are bounded. */
static void test_step_bounds(void)
{
    for (uint32_t op = 0; op < OP_COUNT + 10; op++) {
        struct step step = {.op = op, .flags = 0xFFFFFFFF, .fd = STEP_SLOTS, .newfd = STEP_SLOTS};
        long first = -7, second = -7;
        int known = step_reads(&step, &first, &second);
        assert(first >= -1 && second >= 0);
        if (op >= OP_COUNT || op == OP_SAVE || op == OP_RESTORE)
            assert(known == -1);
        else
            assert(known == 0);
        if (op == OP_GROUPS)
            assert(first == 4L * 0xFFFFFFFF);
    }
    struct step negative = {.op = OP_SAVE, .newfd = -1};
    long first, second;
    assert(step_reads(&negative, &first, &second) == -1);
}

/* An unknown operation fails as EINVAL, with its index, and nothing after it runs. */
static void test_run_steps(void)
{
    char blob[16] = "/dev/null";
    int fd = dup(0);
    struct step steps[] = {{.op = OP_CLOSE, .fd = fd}, {.op = OP_COUNT}, {.op = OP_CLOSE, .fd = 0}};
    struct child_state state = {.steps = steps, .count = 3, .blob = blob};
    uint32_t failed = 99;
    assert(run_steps(&state, &failed) == -EINVAL && failed == 1);
    assert(fcntl(fd, F_GETFD) == -1 && fcntl(0, F_GETFD) >= 0);
}

static int launch_one(const char *path, struct step *steps, uint32_t count, const char *blob, struct launch *l)
{
    static char *argv[] = {"true", NULL}, *envp[] = {NULL};
    *l = (struct launch){.path = path, .exec_fd = -1, .argv = argv, .envp = envp, .steps = steps, .step_count = count,
                         .blob = blob, .cgroup_fd = -1};
    return launch(l);
}

static void *launch_many(void *unused)
{
    char blob[] = "/no/such";
    struct step step = {.op = OP_CHDIR, .arg = 0};
    (void)unused;
    for (int i = 0; i < 200; i++) {
        struct launch l;
        siginfo_t info;
        assert(!launch_one("/bin/true", NULL, 0, blob, &l));
        assert(!waitid(3, (id_t)l.pidfd, &info, WEXITED) && info.si_status == 0);
        close(l.pidfd);
        assert(launch_one("/bin/true", &step, 1, blob, &l) == ENOENT && l.failed == 0 && l.pid == -1);
        assert(launch_one("/no/such", NULL, 0, blob, &l) == ENOENT && l.failed == STEP_EXEC);
    }
    return NULL;
}

/* Launches from several threads: each ends as it should, and no child is left. */
static void test_launch(void)
{
    pthread_t threads[4];
    for (int i = 0; i < 4; i++)
        pthread_create(&threads[i], NULL, launch_many, NULL);
    for (int i = 0; i < 4; i++)
        pthread_join(threads[i], NULL);
    assert(waitpid(-1, NULL, WNOHANG | __WALL) == -1 && errno == ECHILD);
}

static const struct {
    const char *name;
    void (*run)(void);
} tests[] = {
    {"sink", test_sink},
    {"spill-error", test_spill_error},
    {"sink-is-bounded", test_sink_is_bounded},
    {"capture", test_capture},
    {"capture-without-reader", test_capture_without_reader},
    {"capture-deadline", test_capture_deadline},
    {"step-bounds", test_step_bounds},
    {"run-steps", test_run_steps},
    {"launch", test_launch},
};

int main(int argc, char **argv)
{
    for (size_t i = 0; argc == 2 && i < sizeof tests / sizeof *tests; i++)
        if (!strcmp(argv[1], tests[i].name)) {
            tests[i].run();
            return 0;
        }
    for (size_t i = 0; i < sizeof tests / sizeof *tests; i++)
        puts(tests[i].name);
    return argc == 1 ? 0 : 2;
}
