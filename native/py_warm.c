/* py_warm: elfolio._native.Warm, a template's process; Surroundings, what it was born into; WarmPlan, what a spawn
 * sends to it. */
#include "module.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "warm.h"

/* --- Surroundings ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    struct surroundings surroundings;
} SurroundingsObject;

static PyObject *surroundings_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    SurroundingsObject *self = (SurroundingsObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    int err = self ? surroundings_read(&self->surroundings, 0, 1) : 0;
    if (err) {
        raise_errno(err);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static void plain_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *surroundings_py_differ(PyObject *self, PyObject *other)
{
    if (Py_TYPE(other) != surroundings_type) {
        PyErr_SetString(PyExc_TypeError, "Surroundings are compared with Surroundings");
        return NULL;
    }
    return PyLong_FromLong(surroundings_differ(&((SurroundingsObject *)self)->surroundings,
                                               &((SurroundingsObject *)other)->surroundings));
}

static PyMethodDef surroundings_methods[] = {
    {"differ", surroundings_py_differ, METH_O, "differ(other) -> 0, or which part of them is another (enum drift)."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot surroundings_slots[] = {
    {Py_tp_new, (void *)surroundings_new},
    {Py_tp_dealloc, (void *)plain_dealloc},
    {Py_tp_methods, surroundings_methods},
    {Py_tp_doc, "Surroundings(): what a child of the calling thread would inherit now."},
    {0, NULL},
};

PyType_Spec surroundings_spec = {.name = "elfolio._native.Surroundings",
                                 .basicsize = sizeof(SurroundingsObject),
                                 .flags = Py_TPFLAGS_DEFAULT,
                                 .slots = surroundings_slots};

/* --- WarmPlan -------------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    PyObject *steps;
    struct warm_plan plan;
} WarmPlanObject;

const struct warm_plan *warm_plan_of(PyObject *self)
{
    return &((WarmPlanObject *)self)->plan;
}

static int numbers_from(PyObject *sequence, int *to, uint32_t *count)
{
    Py_ssize_t n = PySequence_Size(sequence);
    if (n < 0 || n > WARM_FDS) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_ValueError, "too many descriptors");
        return -1;
    }
    *count = (uint32_t)n;
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *item = PySequence_GetItem(sequence, i);
        to[i] = item ? (int)PyLong_AsLong(item) : -1;
        Py_XDECREF(item);
        if (PyErr_Occurred())
            return -1;
    }
    return 0;
}

static PyObject *warm_plan_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *steps, *sources, *targets, *kept;
    unsigned flags;
    int highest, may_fail, may_block, repeatable;
    uint32_t target_count;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O!IOOOippp", steps_type, &steps, &flags, &sources, &targets, &kept, &highest,
                          &may_fail, &may_block, &repeatable))
        return NULL;
    WarmPlanObject *self = (WarmPlanObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    struct warm_plan *p = &self->plan;
    struct launch l;
    if (numbers_from(sources, p->source, &p->fd_count) || numbers_from(targets, p->target, &target_count) ||
        numbers_from(kept, p->kept, &p->kept_count)) {
        Py_DECREF(self);
        return NULL;
    }
    steps_of(steps, &l);
    self->steps = Py_NewRef(steps);
    p->steps = l.steps;
    p->step_count = l.step_count;
    p->blob = l.blob;
    p->blob_bytes = (uint32_t)blob_bytes_of(steps);
    p->flags = flags;
    p->highest = highest;
    p->may_fail = may_fail;
    p->may_block = may_block;
    p->repeatable = repeatable;
    return (PyObject *)self;
}

static void warm_plan_dealloc(PyObject *self)
{
    Py_CLEAR(((WarmPlanObject *)self)->steps);
    plain_dealloc(self);
}

static PyType_Slot warm_plan_slots[] = {
    {Py_tp_new, (void *)warm_plan_new},
    {Py_tp_dealloc, (void *)warm_plan_dealloc},
    {Py_tp_doc, "WarmPlan(steps, flags, sources, targets, kept, highest, may_fail, may_block, repeatable): see struct warm_plan."},
    {0, NULL},
};

PyType_Spec warm_plan_spec = {.name = "elfolio._native.WarmPlan",
                              .basicsize = sizeof(WarmPlanObject),
                              .flags = Py_TPFLAGS_DEFAULT,
                              .slots = warm_plan_slots};

/* --- Warm ------------------------------------------------------------------------------------------ */

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

static PyObject *warm_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *surroundings, *objects, *environment, *variables;
    int socket, taken, slots, pid, pidfd, whole;
    unsigned long long peer, rotate_after;
    long long max_age_ns, idle_ns;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "iiiKiiO!O!O!pO!KLL", &socket, &taken, &slots, &peer, &pid, &pidfd, surroundings_type, &surroundings,
                          &PyList_Type, &objects, &PyList_Type, &environment, &whole, &PyList_Type, &variables,
                          &rotate_after, &max_age_ns, &idle_ns))
        return NULL;
    WarmObject *self = (WarmObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    struct warm *w = &self->warm;
    void *mapped = mmap(NULL, WARM_SLOT_BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, slots, 0);
    if (mapped == MAP_FAILED) {
        Py_DECREF(self);
        return raise_errno(errno);
    }
    w->socket = -1; /* the caller's, until there is an object to own it */
    w->whole_environment = whole;
    w->surroundings = ((SurroundingsObject *)surroundings)->surroundings;
    if (objects_from(w, objects) || variables_from(w, variables) || environment_from(w, environment)) {
        munmap(mapped, WARM_SLOT_BYTES);
        Py_DECREF(self);
        return NULL;
    }
    char exe[32];
    snprintf(exe, sizeof exe, "/proc/%d/exe", pid);
    int err = file_key_read(exe, -1, &w->program);
    w->peer_inode = peer;
    w->rotate_after = rotate_after;
    w->idle_ns = idle_ns;
    w->max_age_ns = max_age_ns;
    w->pid = pid;
    w->pidfd = pidfd;
    w->taken = taken;
    w->slots = mapped;
    w->socket = socket;
    if (!err)
        err = warm_adopt(w);
    if (err) {
        w->socket = -1;
        munmap(mapped, WARM_SLOT_BYTES);
        Py_DECREF(self);
        return raise_errno(err);
    }
    return (PyObject *)self;
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

static PyMethodDef warm_methods[] = {
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
    {Py_tp_doc, "Warm(socket, taken, slots, peer_inode, pid, pidfd, surroundings, objects, environment, whole, variables, rotate_after, max_age_ns, idle_ns): owns the "
                "socket and the pidfd."},
    {0, NULL},
};

PyType_Spec warm_spec = {.name = "elfolio._native.Warm",
                         .basicsize = sizeof(WarmObject),
                         .flags = Py_TPFLAGS_DEFAULT,
                         .slots = warm_slots};
