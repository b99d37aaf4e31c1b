/* py_proxy: elfolio._native.Proxy, a process that makes system calls for this one. */
#include "module.h"

#include <sys/uio.h>

#include "proxy.h"
#include "sys.h"

typedef struct {
    PyObject ob_base;
    struct proxy proxy;
} ProxyObject;

struct rendezvous *rendezvous_of(PyObject *self)
{
    return &((ProxyObject *)self)->proxy.rendezvous;
}

static PyObject *proxy_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)kwargs;
    if (!PyArg_ParseTuple(args, ""))
        return NULL;
    ProxyObject *self = (ProxyObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    int err = self ? proxy_start(&self->proxy) : 0;
    if (err) {
        raise_errno(err);
        Py_CLEAR(self);
    }
    return (PyObject *)self;
}

static PyObject *proxy_py_close(PyObject *self, PyObject *unused)
{
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    proxy_stop(&((ProxyObject *)self)->proxy);
    Py_END_ALLOW_THREADS
    Py_RETURN_NONE;
}

static void proxy_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    proxy_stop(&((ProxyObject *)self)->proxy);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *result_of(struct proxy *p)
{
    long result = 0;
    int err;
    Py_BEGIN_ALLOW_THREADS
    err = proxy_result(p, &result);
    Py_END_ALLOW_THREADS
    return err ? raise_errno(err) : PyLong_FromLong(result);
}

static int is_alive(struct proxy *p)
{
    if (!p->stack)
        raise_errno(ESRCH);
    return p->stack != NULL;
}

static PyObject *proxy_meet(PyObject *self, PyObject *arg)
{
    struct proxy *p = &((ProxyObject *)self)->proxy;
    long options = PyLong_AsLong(arg), argument[6] = {options};
    if ((options == -1 && PyErr_Occurred()) || !is_alive(p))
        return NULL;
    proxy_post(p, PROXY_MEET, argument);
    Py_RETURN_NONE;
}

static PyObject *proxy_py_result(PyObject *self, PyObject *unused)
{
    struct proxy *p = &((ProxyObject *)self)->proxy;
    (void)unused;
    return is_alive(p) ? result_of(p) : NULL;
}

/* Integers as they are; anything with a buffer as its address. */
static PyObject *proxy_call(PyObject *self, PyObject *args)
{
    struct proxy *p = &((ProxyObject *)self)->proxy;
    long number[7] = {0};
    Py_buffer views[7];
    int viewed = 0;
    PyObject *out = NULL;
    Py_ssize_t count = PyTuple_Size(args);
    if (count < 1 || count > 7) {
        PyErr_SetString(PyExc_TypeError, "a system call's number and up to six arguments");
        return NULL;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *arg = PyTuple_GetItem(args, i);
        if (PyLong_Check(arg)) {
            number[i] = (long)PyLong_AsUnsignedLongMask(arg);
        } else {
            if (PyObject_GetBuffer(arg, &views[viewed], PyBUF_SIMPLE))
                goto done;
            number[i] = (long)views[viewed++].buf;
        }
    }
    if (is_alive(p)) {
        proxy_post(p, number[0], number + 1);
        out = result_of(p);
    }
done:
    while (viewed)
        PyBuffer_Release(&views[--viewed]);
    return out;
}

/* ptrace(2) on a register set: its argument is a pointer to a pointer, which call() has no way to pass. */
static PyObject *proxy_regset(PyObject *self, PyObject *args)
{
    struct proxy *p = &((ProxyObject *)self)->proxy;
    long request, pid, type;
    Py_buffer view;
    PyObject *out = NULL;
    if (!PyArg_ParseTuple(args, "lllw*", &request, &pid, &type, &view))
        return NULL;
    struct iovec iov = {view.buf, (size_t)view.len};
    if (is_alive(p)) {
        proxy_post(p, SYS_ptrace, (long[6]){request, pid, type, (long)&iov});
        out = result_of(p);
    }
    PyBuffer_Release(&view);
    return out;
}

static PyMethodDef proxy_methods[] = {
    {"meet", proxy_meet, METH_O, "meet(options): traces the child of the launch that gets this proxy; then result()."},
    {"result", proxy_py_result, METH_NOARGS, "result() -> what the call returned: -errno on failure."},
    {"call", proxy_call, METH_VARARGS, "call(number, *arguments) -> what the system call returned in the proxy."},
    {"regset", proxy_regset, METH_VARARGS,
     "regset(request, pid, type, buffer) -> 0 or -errno: PTRACE_GETREGSET or PTRACE_SETREGSET."},
    {"close", proxy_py_close, METH_NOARGS, "close(): ends it, and what it traces."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot proxy_slots[] = {
    {Py_tp_new, (void *)proxy_new},
    {Py_tp_dealloc, (void *)proxy_dealloc},
    {Py_tp_methods, proxy_methods},
    {Py_tp_doc, "Proxy(): a process of our memory and descriptors that makes system calls for us (native/proxy.h)."},
    {0, NULL},
};

PyType_Spec proxy_spec = {.name = "elfolio._native.Proxy",
                          .basicsize = sizeof(ProxyObject),
                          .flags = Py_TPFLAGS_DEFAULT,
                          .slots = proxy_slots};
