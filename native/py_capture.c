/* py_capture: elfolio._native.Capture, the pipes of one child. */
#include "module.h"

#include <string.h>

typedef struct {
    PyObject ob_base;
    struct capture capture;
    Py_buffer input;
    int has_input;
} CaptureObject;

static void capture_dealloc(PyObject *self)
{
    CaptureObject *c = (CaptureObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    capture_free(&c->capture);
    if (c->has_input)
        PyBuffer_Release(&c->input);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

/* Takes the descriptors out of a list of three and leaves -1 there: from one moment to the next they are the
 * Capture's, whatever interrupts the caller. */
static int take_ends(PyObject *ends, int fd[3])
{
    for (int i = 0; i < 3; i++) {
        PyObject *item = PyList_GetItem(ends, i);
        long value = item ? PyLong_AsLong(item) : -1;
        if (value == -1 && PyErr_Occurred())
            return -1;
        fd[i] = (int)value;
    }
    for (int i = 0; i < 3; i++)
        if (PyList_SetItem(ends, i, PyLong_FromLong(-1)))
            return -1;
    return 0;
}

static PyObject *capture_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *input, *ends;
    int pidfd, fd[3], spill_fd[CAPTURE_OUTPUTS];
    long long limit;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "iO!OLii", &pidfd, &PyList_Type, &ends, &input, &limit, &spill_fd[0], &spill_fd[1]))
        return NULL;
    CaptureObject *self = (CaptureObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    capture_init(&self->capture, pidfd, -1, NULL, 0, (const int[]){-1, -1}, limit, spill_fd);
    self->has_input = input != Py_None && !PyObject_GetBuffer(input, &self->input, PyBUF_SIMPLE);
    if (!PyErr_Occurred() && !take_ends(ends, fd)) {
        int err = capture_init(&self->capture, pidfd, fd[0], self->has_input ? self->input.buf : NULL,
                               self->has_input ? (size_t)self->input.len : 0, &fd[1], limit, spill_fd);
        if (!err)
            return (PyObject *)self;
        raise_errno(err);
    }
    Py_DECREF(self);
    return NULL;
}

static PyObject *capture_py_run(PyObject *self, PyObject *args)
{
    struct capture *c = &((CaptureObject *)self)->capture;
    long long deadline;
    int until, state;
    if (!PyArg_ParseTuple(args, "Li", &deadline, &until))
        return NULL;
    for (;;) {
        Py_BEGIN_ALLOW_THREADS
        state = capture_run(c, deadline, until);
        Py_END_ALLOW_THREADS
        if (state >= 0)
            return PyLong_FromLong(state);
        if (state != -EINTR)
            return raise_errno(-state);
        if (PyErr_CheckSignals())
            return NULL;
    }
}

static PyObject *capture_py_output(PyObject *self, PyObject *arg)
{
    struct capture *c = &((CaptureObject *)self)->capture;
    long i = PyLong_AsLong(arg);
    if (i < 0 || i >= CAPTURE_OUTPUTS) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_IndexError, "0: standard output, 1: standard error");
        return NULL;
    }
    const struct sink *s = &c->output[i];
    PyObject *tail = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)s->ring_used);
    if (!tail)
        return NULL;
    sink_tail(s, PyBytes_AsString(tail));
    return Py_BuildValue("(y#NKKi)", s->head ? s->head : "", (Py_ssize_t)s->head_used, tail,
                         (unsigned long long)s->total, (unsigned long long)sink_dropped(s), s->spill_error);
}

static PyObject *capture_py_fileno(PyObject *self, PyObject *unused)
{
    struct capture *c = &((CaptureObject *)self)->capture;
    int err = capture_watch(c);
    (void)unused;
    return err ? raise_errno(err) : PyLong_FromLong(c->epoll_fd);
}

static PyObject *capture_py_ends(PyObject *self, PyObject *unused)
{
    struct capture *c = &((CaptureObject *)self)->capture;
    (void)unused;
    return Py_BuildValue("(ii)", c->output_fd[0], c->output_fd[1]);
}

static PyObject *capture_py_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    capture_close(&((CaptureObject *)self)->capture);
    Py_RETURN_NONE;
}

static PyMethodDef capture_methods[] = {
    {"run", capture_py_run, METH_VARARGS,
     "run(deadline_ns, until) -> state: moves bytes until nothing of `until` is left, or the deadline (0: one turn "
     "without waiting, -1: none)."},
    {"output", capture_py_output, METH_O,
     "output(0 | 1) -> (head, tail, total, dropped, errno of the spill file)."},
    {"fileno", capture_py_fileno, METH_NOARGS, "fileno() -> the epoll descriptor: readable when run() has work."},
    {"ends", capture_py_ends, METH_NOARGS,
     "ends() -> (out, err): our ends of the outputs that have not ended, else -1, whose number may be anybody's by now."},
    {"close", capture_py_close, METH_NOARGS, "close(): ends the pipes; output() stays."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot capture_slots[] = {
    {Py_tp_new, (void *)capture_new},
    {Py_tp_dealloc, (void *)capture_dealloc},
    {Py_tp_methods, capture_methods},
    {Py_tp_doc, "Capture(pidfd, ends, input, limit, spill_out, spill_err): takes its ends of the pipes out of a list of three."},
    {0, NULL},
};

PyType_Spec capture_spec = {.name = "elfolio._native.Capture",
                            .basicsize = sizeof(CaptureObject),
                            .flags = Py_TPFLAGS_DEFAULT,
                            .slots = capture_slots};
