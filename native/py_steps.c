/* py_steps: elfolio._native.Steps, a compiled plan, checked once and for all its launches. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

typedef struct {
    PyObject ob_base;
    PyObject *owners[2]; /* the bytes of the steps and of the blob */
    const struct step *steps;
    uint32_t count;
    const char *blob;
    size_t blob_bytes;
} StepsObject;

static int string_ends(const char *blob, Py_ssize_t size, uint64_t at)
{
    return at < (uint64_t)size && memchr(blob + at, 0, (size_t)size - (size_t)at);
}

/* The child trusts the steps; here is the border at which they are checked. */
static int steps_are_sound(const struct step *steps, Py_ssize_t count, const char *blob, Py_ssize_t size)
{
    for (Py_ssize_t i = 0; i < count; i++) {
        long first, second;
        if (step_reads(&steps[i], &first, &second))
            return 0;
        if (first < 0 && !string_ends(blob, size, steps[i].arg))
            return 0;
        if (first > 0 && (steps[i].arg > (uint64_t)size || (uint64_t)first > (uint64_t)size - steps[i].arg))
            return 0;
        if (second > 0 && (steps[i].arg2 > (uint64_t)size || (uint64_t)second > (uint64_t)size - steps[i].arg2))
            return 0;
        if (second > 0 && steps[i].arg2 % sizeof(uint64_t))
            return 0;
    }
    return 1;
}

void steps_of(PyObject *self, struct launch *l)
{
    StepsObject *s = (StepsObject *)self;
    l->steps = s->steps;
    l->step_count = s->count;
    l->blob = s->blob;
}

size_t blob_bytes_of(PyObject *self)
{
    return ((StepsObject *)self)->blob_bytes;
}

static void steps_dealloc(PyObject *self)
{
    StepsObject *s = (StepsObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    Py_CLEAR(s->owners[0]);
    Py_CLEAR(s->owners[1]);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *steps_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *steps, *blob;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "SS", &steps, &blob))
        return NULL;
    Py_ssize_t size = PyBytes_Size(steps), count = size / (Py_ssize_t)sizeof(struct step);
    const struct step *first = (const struct step *)PyBytes_AsString(steps);
    if (size % (Py_ssize_t)sizeof(struct step) ||
        !steps_are_sound(first, count, PyBytes_AsString(blob), PyBytes_Size(blob))) {
        PyErr_SetString(PyExc_ValueError, "steps that point outside their blob");
        return NULL;
    }
    StepsObject *self = (StepsObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (self) {
        self->owners[0] = Py_NewRef(steps);
        self->owners[1] = Py_NewRef(blob);
        self->steps = first;
        self->count = (uint32_t)count;
        self->blob = PyBytes_AsString(blob);
        self->blob_bytes = (size_t)PyBytes_Size(blob);
    }
    return (PyObject *)self;
}

static PyType_Slot steps_slots[] = {
    {Py_tp_new, (void *)steps_new},
    {Py_tp_dealloc, (void *)steps_dealloc},
    {Py_tp_doc, "Steps(steps, blob): packed steps (native/steps.h) and the bytes they point into."},
    {0, NULL},
};

PyType_Spec steps_spec = {.name = "elfolio._native.Steps",
                          .basicsize = sizeof(StepsObject),
                          .flags = Py_TPFLAGS_DEFAULT,
                          .slots = steps_slots};
