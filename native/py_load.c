/* py_load: Memory, a mapping that is a read-only buffer; ring_read; populate. */
#include "module.h"

#include <sys/mman.h>

#include "load.h"
#include "populate.h"

struct memory {
    PyObject_HEAD
    char *base;
    size_t room, skip, length;
    Py_ssize_t views;
    PyObject *keep; /* of memory that is lent: what keeps its owner from unmapping it; else NULL */
};

/* (address, room, skip, length, keep): owns the mapping, or with `keep` borrows it; shows `length` bytes from `skip`
 * on. */
static PyObject *memory_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    unsigned long long address, room, skip, length;
    PyObject *keep;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "KKKKO", &address, &room, &skip, &length, &keep))
        return NULL;
    if (skip > room || length > room - skip || length > PY_SSIZE_T_MAX)
        return raise_errno(EINVAL);
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    struct memory *m = (struct memory *)alloc(type, 0);
    if (!m)
        return NULL;
    m->base = (char *)(uintptr_t)address;
    m->room = room, m->skip = skip, m->length = length;
    m->keep = keep == Py_None ? NULL : Py_NewRef(keep);
    return (PyObject *)m;
}

static void release(struct memory *m)
{
    char *base = m->base;
    m->base = NULL;
    if (base && !m->keep) {
        Py_BEGIN_ALLOW_THREADS
        munmap(base, m->room);
        Py_END_ALLOW_THREADS
    }
    Py_CLEAR(m->keep);
}

static void memory_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    freefunc free_it = (freefunc)PyType_GetSlot(type, Py_tp_free);
    release((struct memory *)self);
    free_it(self);
    Py_DECREF(type);
}

static PyObject *memory_close(PyObject *self, PyObject *none)
{
    struct memory *m = (struct memory *)self;
    (void)none;
    if (m->views) {
        PyErr_SetString(PyExc_BufferError, "a view of it lives: release it, and what was made of it");
        return NULL;
    }
    release(m);
    Py_RETURN_NONE;
}

static PyObject *memory_address(PyObject *self, void *none)
{
    struct memory *m = (struct memory *)self;
    (void)none;
    return PyLong_FromUnsignedLongLong(m->base ? (uintptr_t)(m->base + m->skip) : 0);
}

static int memory_get(PyObject *self, Py_buffer *view, int flags)
{
    struct memory *m = (struct memory *)self;
    if (!m->base) {
        view->obj = NULL;
        PyErr_SetString(PyExc_ValueError, "it is closed");
        return -1;
    }
    if (PyBuffer_FillInfo(view, self, m->base + m->skip, (Py_ssize_t)m->length, 1, flags))
        return -1;
    m->views++;
    return 0;
}

static void memory_put(PyObject *self, Py_buffer *view)
{
    (void)view;
    ((struct memory *)self)->views--;
}

static Py_ssize_t memory_length(PyObject *self)
{
    return (Py_ssize_t)((struct memory *)self)->length;
}

static PyMethodDef memory_methods[] = {
    {"close", memory_close, METH_NOARGS, "Unmaps it; again, nothing. BufferError while a view lives."},
    {NULL, NULL, 0, NULL},
};
static PyGetSetDef memory_members[] = {
    {"address", memory_address, NULL, "Where it begins; 0 once it is closed.", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};
static PyType_Slot memory_slots[] = {
    {Py_tp_new, (void *)memory_new},
    {Py_tp_dealloc, (void *)memory_dealloc},
    {Py_tp_methods, memory_methods},
    {Py_tp_getset, memory_members},
    {Py_bf_getbuffer, (void *)memory_get},
    {Py_bf_releasebuffer, (void *)memory_put},
    {Py_sq_length, (void *)memory_length},
    {0, NULL},
};
PyType_Spec memory_spec = {"elfolio._native.Memory", sizeof(struct memory), 0,
                           Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE, memory_slots};

/* Tells `progress` of what has come, and hears signals. */
static int heard(PyObject *progress, size_t done)
{
    if (PyErr_CheckSignals())
        return -1;
    if (progress == Py_None)
        return 0;
    PyObject *said = PyObject_CallFunction(progress, "K", (unsigned long long)done);
    Py_XDECREF(said);
    return said ? 0 : -1;
}

PyObject *py_ring_read(PyObject *self, PyObject *args)
{
    unsigned long long to, offset, room, least, chunk;
    struct ring_read r;
    PyObject *progress;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKKKKKIO", &r.fd, &to, &offset, &room, &least, &chunk, &r.depth, &progress))
        return NULL;
    if (!r.depth || r.depth > RING_DEPTH || !chunk || chunk > 1u << 30)
        return raise_errno(EINVAL);
    r.to = (char *)(uintptr_t)to;
    r.offset = offset, r.room = room, r.least = least, r.chunk = chunk;
    if (ring_begin(&r))
        Py_RETURN_FALSE;
    int more;
    do {
        Py_BEGIN_ALLOW_THREADS
        more = ring_step(&r);
        Py_END_ALLOW_THREADS
    } while (!heard(progress, r.done) && more > 0);
    Py_BEGIN_ALLOW_THREADS
    ring_end(&r);
    Py_END_ALLOW_THREADS
    if (PyErr_Occurred())
        return NULL;
    if (more < 0)
        return raise_errno(-more);
    Py_RETURN_TRUE;
}

PyObject *py_populate(PyObject *self, PyObject *args)
{
    unsigned long long address, size, huge;
    int pagemap, err;
    struct populated p;
    (void)self;
    if (!PyArg_ParseTuple(args, "KKKi", &address, &size, &huge, &pagemap))
        return NULL;
    if (!huge || huge & (huge - 1))
        return raise_errno(EINVAL);
    Py_BEGIN_ALLOW_THREADS
    err = populate((char *)(uintptr_t)address, size, huge, pagemap, &p);
    Py_END_ALLOW_THREADS
    if (err)
        return raise_errno(-err);
    return Py_BuildValue("(nn)", (Py_ssize_t)p.whole, (Py_ssize_t)p.huge);
}
