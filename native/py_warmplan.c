/* py_warmplan: elfolio._native.Surroundings, what a template's process was born into; WarmPlan, what a spawn sends to
 * it. */
#include "module.h"

#include "warm.h"

/* --- Surroundings ---------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    struct surroundings surroundings;
} SurroundingsObject;

const struct surroundings *surroundings_of(PyObject *self)
{
    return &((SurroundingsObject *)self)->surroundings;
}

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

void plain_dealloc(PyObject *self)
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
