/* warm_life: a template from its adoption to its end, and in a forked child, which must not hold the sockets open. */
#define _GNU_SOURCE
#include "warm_parts.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "sys.h"

static struct warm *all;
static pthread_mutex_t all_lock = PTHREAD_MUTEX_INITIALIZER;

/* A host that closes what it does not know, as daemons do, closes all of ours, and may have given the numbers to other
 * files: those are neither written to nor closed. */
static uint64_t socket_inode(int fd)
{
    struct stat st;
    return !fstat(fd, &st) && S_ISSOCK(st.st_mode) ? st.st_ino : 0;
}

int warm_is_ours(const struct warm *w)
{
    return socket_inode(w->socket) == w->inode;
}

void warm_after_fork(void)
{
    pthread_mutex_init(&all_lock, NULL);
    for (struct warm *w = all; w; w = w->next) {
        pthread_mutex_init(&w->lock, NULL);
        w->dead = 1;
        int ours = warm_is_ours(w);
        if (ours) {
            close(w->socket);
            close(w->taken);
            close(w->pidfd);
        }
        for (int i = 0; i <= WARM_DEPTH; i++) {
            if (ours && w->standby[i].pid)
                close(w->standby[i].pidfd);
            w->standby[i].pid = 0;
        }
        w->socket = w->taken = w->pidfd = -1;
    }
    all = NULL;
    surroundings_after_fork();
}

int warm_adopt(struct warm *w, int socket, int taken)
{
    w->outgoing = malloc(sizeof *w->outgoing);
    if (!w->outgoing)
        return ENOMEM;
    pthread_mutex_init(&w->lock, NULL);
    w->socket = socket;
    w->taken = taken;
    w->inode = socket_inode(socket);
    w->spins = WARM_SPINS;
    pthread_mutex_lock(&all_lock);
    w->next = all;
    w->before = &all;
    if (all)
        all->before = &w->next;
    all = w;
    pthread_mutex_unlock(&all_lock);
    return 0;
}

void warm_stand(struct warm *w, pid_t pid, int pidfd)
{
    w->pid = pid;
    w->pidfd = pidfd;
    w->born_ns = w->last_ns = clock_ns();
    w->dead = 0;
}

void warm_close(struct warm *w)
{
    if (w->socket < 0)
        return;
    w->dead = 1;
    pthread_mutex_lock(&all_lock);
    *w->before = w->next;
    if (w->next)
        w->next->before = w->before;
    pthread_mutex_unlock(&all_lock);
    if (warm_is_ours(w))
        family_end(w);
    else
        family_end_by_number(w);
    w->socket = w->taken = w->pidfd = -1;
}

void warm_free(struct warm *w)
{
    warm_close(w);
    for (uint32_t i = 0; i < w->object_count; i++)
        free(w->objects[i].path);
    for (uint32_t i = 0; i < w->variable_count; i++)
        free(w->variables[i]);
    free(w->objects);
    free(w->variables);
    free(w->environment);
    free(w->outgoing);
    w->outgoing = NULL;
    if (w->slots)
        munmap(w->slots, WARM_SLOT_BYTES); /* only now: a start may be waiting at one */
    w->slots = NULL;
    w->object_count = w->variable_count = 0;
}

/* Told before it would be asked in vain. */
int warm_is_idle(const struct warm *w)
{
    return w->idle_ns && clock_ns() - w->last_ns > w->idle_ns - w->idle_ns / 8;
}
