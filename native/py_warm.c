/* py_warm: elfolio._native.Warm, a template's process and those who stand by. */
#include "module.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "warm.h"

typedef struct {
    PyObject ob_base;
    struct warm warm;
} WarmObject;

struct warm *warm_of(PyObject *self)
{
    return &((WarmObject *)self)->warm;
}

static int objects_from(struct warm *w, PyObject *objects)
{
    Py_ssize_t count = PyList_Size(objects);
    w->objects = count < 0 ? NULL : calloc((size_t)count + 1, sizeof *w->objects);
    if (!w->objects) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        struct warm_object *o = &w->objects[i];
        struct file_key *k = &o->key;
        unsigned long long device, inode, size;
        long long cs, cn, ms, mn;
        const char *path;
        PyObject *key;
        if (!PyArg_ParseTuple(PyList_GetItem(objects, i), "yO", &path, &key) || !(o->path = strdup(path)))
            return -1;
        w->object_count++;
        o->absent = key == Py_None;
        if (o->absent)
            continue;
        if (!PyArg_ParseTuple(key, "KKKIIILLLL", &device, &inode, &size, &k->mode, &k->owner, &k->group, &cs, &cn, &ms,
                              &mn))
            return -1;
        k->device = device;
        k->inode = inode;
        k->size = size;
        k->ctime_s = cs;
        k->ctime_ns = cn;
        k->mtime_s = ms;
        k->mtime_ns = mn;
    }
    return 0;
}

static int variables_from(struct warm *w, PyObject *names)
{
    Py_ssize_t count = PyList_Size(names);
    w->variables = count < 0 ? NULL : calloc((size_t)count + 1, sizeof *w->variables);
    if (!w->variables) {
        if (!PyErr_Occurred())
            PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        const char *name = PyBytes_AsString(PyList_GetItem(names, i));
        if (!name || !(w->variables[i] = strdup(name)))
            return -1;
        w->variable_count++;
    }
    return 0;
}

/* Keeps of the environment that the template was born with what counts. */
static int environment_from(struct warm *w, PyObject *strings)
{
    size_t bytes = 1;
    for (Py_ssize_t i = 0; i < PyList_Size(strings); i++) {
        Py_ssize_t n = PyBytes_Size(PyList_GetItem(strings, i));
        if (n < 0)
            return -1;
        bytes += (size_t)n + 1;
    }
    char *to = w->environment = malloc(bytes);
    if (!to) {
        PyErr_NoMemory();
        return -1;
    }
    for (Py_ssize_t i = 0; i < PyList_Size(strings); i++) {
        const char *s = PyBytes_AsString(PyList_GetItem(strings, i));
        if (warm_variable_counts(w, s))
            to = stpcpy(to, s) + 1;
    }
    w->environment_bytes = (size_t)(to - w->environment);
    return 0;
}

/* A copy that is no standard stream: one that the host has closed stays closed, it may open it again. -1: an exception. */
static int own_copy(int fd)
{
    int copy = fcntl(fd, F_DUPFD_CLOEXEC, 3);
    if (copy < 0)
        raise_errno(errno);
    return copy;
}

static PyObject *warm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *surroundings;
    int socket, taken, slots;
    unsigned long long peer, rotate_after;
    long long max_age_ns, idle_ns;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "iiiKO!KLL", &socket, &taken, &slots, &peer, surroundings_type, &surroundings,
                          &rotate_after, &max_age_ns, &idle_ns))
        return NULL;
    WarmObject *self = (WarmObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    struct warm *w = &self->warm;
    w->socket = w->taken = w->pidfd = -1;
    w->dead = 1; /* until it stands */
    w->surroundings = *surroundings_of(surroundings);
    w->peer_inode = peer;
    w->rotate_after = rotate_after;
    w->max_age_ns = max_age_ns;
    w->idle_ns = idle_ns;
    void *mapped = mmap(NULL, WARM_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, slots, 0);
    if (mapped == MAP_FAILED) {
        raise_errno(errno);
        Py_DECREF(self);
        return NULL;
    }
    w->slots = mapped;
    int err = 0;
    if ((taken = own_copy(taken)) < 0 || (socket = own_copy(socket)) < 0 || (err = warm_adopt(w, socket, taken))) {
        if (err)
            raise_errno(err);
        if (taken >= 0)
            close(taken);
        if (taken >= 0 && socket >= 0)
            close(socket);
        Py_DECREF(self);
        return NULL;
    }
    return (PyObject *)self;
}

static PyObject *warm_py_stand(PyObject *self, PyObject *args)
{
    struct warm *w = &((WarmObject *)self)->warm;
    PyObject *objects, *environment, *variables;
    int pid, pidfd, whole;
    if (!PyArg_ParseTuple(args, "iiO!O!pO!", &pid, &pidfd, &PyList_Type, &objects, &PyList_Type, &environment, &whole,
                          &PyList_Type, &variables))
        return NULL;
    if (w->pid || w->socket < 0) {
        PyErr_SetString(PyExc_ValueError, "it stands, or is closed");
        return NULL;
    }
    w->whole_environment = whole;
    if (objects_from(w, objects) || variables_from(w, variables) || environment_from(w, environment))
        return NULL;
    char exe[32];
    snprintf(exe, sizeof exe, "/proc/%d/exe", pid);
    int err = file_key_read(exe, -1, &w->program);
    if (err)
        return raise_errno(err);
    if ((pidfd = own_copy(pidfd)) < 0)
        return NULL;
    warm_stand(w, pid, pidfd);
    Py_RETURN_NONE;
}

static void warm_dealloc(PyObject *self)
{
    warm_free(&((WarmObject *)self)->warm);
    plain_dealloc(self);
}

static PyObject *warm_py_close(PyObject *self, PyObject *unused)
{
    struct warm *w = &((WarmObject *)self)->warm;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    pthread_mutex_lock(&w->lock);
    warm_close(w);
    pthread_mutex_unlock(&w->lock);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static PyObject *warm_idle(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(warm_is_idle(&((WarmObject *)self)->warm));
}

static PyObject *warm_drift(PyObject *self, PyObject *unused)
{
    struct warm *w = &((WarmObject *)self)->warm;
    struct surroundings now;
    (void)unused;
    if (surroundings_read(&now, w->pid, w->surroundings.terminal != 0))
        return PyLong_FromLong(DRIFT_UNREADABLE);
    return PyLong_FromLong(surroundings_differ(&w->surroundings, &now));
}

static PyObject *warm_facts(PyObject *self, PyObject *unused)
{
    struct warm *w = &((WarmObject *)self)->warm;
    (void)unused;
    return Py_BuildValue("(iiKLi)", (int)w->pid, (int)w->standby[0].pid, (unsigned long long)w->served, (long long)w->born_ns,
                         w->dead);
}

static PyObject *warm_descriptors(PyObject *self, PyObject *unused)
{
    struct warm *w = &((WarmObject *)self)->warm;
    (void)unused;
    return Py_BuildValue("(iii)", w->socket, w->taken, w->pidfd);
}

static PyMethodDef warm_methods[] = {
    {"stand", warm_py_stand, METH_VARARGS,
     "stand(pid, pidfd, objects, environment, whole, variables): this is the process, and what it was born with."},
    {"descriptors", warm_descriptors, METH_NOARGS, "descriptors() -> what is open here for the process; -1 where closed."},
    {"close", warm_py_close, METH_NOARGS, "close(): ends the process and its standby, and reaps them."},
    {"idle", warm_idle, METH_NOARGS, "idle() -> whether it has not been asked for so long that it ends."},
    {"drift", warm_drift, METH_NOARGS, "drift() -> which part of the surroundings is another than at its birth; 0: none."},
    {"facts", warm_facts, METH_NOARGS, "facts() -> (pid, standby's pid or 0, children, born, dead)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot warm_slots[] = {
    {Py_tp_new, (void *)warm_new},
    {Py_tp_dealloc, (void *)warm_dealloc},
    {Py_tp_methods, warm_methods},
    {Py_tp_doc, "Warm(socket, taken, slots, peer_inode, surroundings, rotate_after, max_age_ns, idle_ns): has copies of the "
                "descriptors. Serves nothing until it stands."},
    {0, NULL},
};

PyType_Spec warm_spec = {.name = "elfolio._native.Warm",
                         .basicsize = sizeof(WarmObject),
                         .flags = Py_TPFLAGS_DEFAULT,
                         .slots = warm_slots};
