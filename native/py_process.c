/* py_process: elfolio._native.Process, a started child, and Counts, the totals it reports to.
 *
 * The interpreter lock is their lock: it is let go only while a wait blocks. */
#include "module.h"

#include <signal.h>
#include <stddef.h>
#include <structmember.h>
#include <unistd.h>

#include "status.h"
#include "sys.h"

/* --- Counts -------------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    unsigned long long started, warm, elsewhere, check_ns, launch_ns, life_ns;
} CountsObject;

static PyObject *counts_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    (void)args;
    (void)kwargs;
    return ((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
}

static void counts_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef counts_members[] = {
    {"started", T_ULONGLONG, offsetof(CountsObject, started), READONLY, "children started"},
    {"warm", T_ULONGLONG, offsetof(CountsObject, warm), READONLY, "of them from a warm template"},
    {"check_ns", T_ULONGLONG, offsetof(CountsObject, check_ns), READONLY, "nanoseconds in revalidation"},
    {"launch_ns", T_ULONGLONG, offsetof(CountsObject, launch_ns), READONLY, "nanoseconds from clone to exec"},
    {"elsewhere", T_ULONGLONG, offsetof(CountsObject, elsewhere), READONLY,
     "children that were waited for here, and whose status somebody else took"},
    {"life_ns", T_ULONGLONG, offsetof(CountsObject, life_ns), READONLY, "nanoseconds that reaped children lived"},
    {NULL, 0, 0, 0, NULL},
};

static PyType_Slot counts_slots[] = {
    {Py_tp_new, (void *)counts_new},
    {Py_tp_dealloc, (void *)counts_dealloc},
    {Py_tp_members, counts_members},
    {Py_tp_doc, "Counts(): the totals of one program."},
    {0, NULL},
};

PyType_Spec counts_spec = {.name = "elfolio._native.Counts",
                           .basicsize = sizeof(CountsObject),
                           .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
                           .slots = counts_slots};

/* --- Process ------------------------------------------------------------------------------------- */

typedef struct {
    PyObject ob_base;
    int pid;
    int pidfd;
    int waiters;
    enum ended ended;
    struct ending ending;
    int64_t born_ns;
    unsigned how;
    int warm; /* enum warm_outcome */
    unsigned warm_detail;
    PyObject *counts;
    PyObject *on_end; /* called once it has been reaped; NULL */
} ProcessObject;

PyObject *process_unborn(PyTypeObject *type, PyObject *counts)
{
    ProcessObject *p = (ProcessObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (p) {
        p->pidfd = -1;
        p->counts = Py_NewRef(counts);
    }
    return (PyObject *)p;
}

void process_born(PyObject *self, const struct launch *l, const struct image_result *r)
{
    ProcessObject *p = (ProcessObject *)self;
    CountsObject *c = (CountsObject *)p->counts;
    p->pid = (int)l->pid;
    p->pidfd = l->pidfd;
    p->how = l->how;
    p->warm = (int)r->warm;
    p->warm_detail = r->warm_detail;
    c->warm += l->how & HOW_WARM ? 1 : 0;
    p->born_ns = clock_ns();
    c->started++;
    c->check_ns += (unsigned long long)r->check_ns;
    c->launch_ns += (unsigned long long)r->launch_ns;
}

static PyObject *process_returncode(PyObject *self, void *closure)
{
    ProcessObject *p = (ProcessObject *)self;
    (void)closure;
    return p->ended ? PyLong_FromLong(p->ending.code) : Py_NewRef(Py_None);
}

static PyObject *process_temperature(PyObject *self, void *closure)
{
    (void)closure;
    return PyUnicode_FromString(((ProcessObject *)self)->how & HOW_WARM ? "warm" : "cold");
}

static PyObject *process_usage(PyObject *self, void *closure)
{
    ProcessObject *p = (ProcessObject *)self;
    (void)closure;
    return p->ended == ENDED ? usage_tuple(&p->ending.usage) : Py_NewRef(Py_None);
}

static void process_close(ProcessObject *p)
{
    if (p->pidfd >= 0)
        close(p->pidfd);
    p->pidfd = -1;
}

/* Takes the status if nobody has; -1 with an exception when it is lost. */
static int process_take(ProcessObject *p)
{
    if (p->ended)
        return 0;
    int ended = take_status(p->pidfd, &p->ending);
    if (ended < 0) {
        raise_errno(-ended);
        return -1;
    }
    p->ended = (enum ended)ended;
    if (ended != ENDED_NOT)
        ((CountsObject *)p->counts)->life_ns += (unsigned long long)(clock_ns() - p->born_ns);
    if (ended == ENDED_TAKEN || ended == ENDED_LOST)
        ((CountsObject *)p->counts)->elsewhere++;
    if (ended == ENDED_LOST) {
        p->ending.code = LOST_CODE;
        PyObject *error = PyObject_CallFunction(
            PyExc_ChildProcessError, "iN", ECHILD,
            PyUnicode_FromFormat("the exit status of %d went to somebody else: SIGCHLD is ignored, or something waits "
                                 "for any child (Linux 6.15 and later would still tell)",
                                 p->pid));
        if (error)
            PyErr_SetObject(PyExc_ChildProcessError, error);
        Py_XDECREF(error);
        return -1;
    }
    return 0;
}

static int process_ended(ProcessObject *p)
{
    PyObject *hook = p->on_end;
    p->on_end = NULL;
    PyObject *done = hook ? PyObject_CallNoArgs(hook) : NULL;
    int err = hook && !done ? -1 : 0;
    Py_XDECREF(done);
    Py_XDECREF(hook);
    return err;
}

/* 1: it has ended, 0: the deadline has passed, -1: an exception.
 * The pidfd is closed by the last one who waits: a number that is being polled must not come to mean another
 * file. */
static int process_await(ProcessObject *p, int64_t deadline)
{
    int ended, err = 0;
    if (p->ended)
        return 1;
    p->waiters++;
    do {
        Py_BEGIN_ALLOW_THREADS
        ended = await_end(p->pidfd, deadline);
        Py_END_ALLOW_THREADS
    } while (ended == -EINTR && !(err = PyErr_CheckSignals()));
    p->waiters--;
    if (ended > 0)
        err = process_take(p);
    else if (ended < 0 && !err)
        err = raise_errno(-ended) ? 0 : -1;
    if (p->ended && !p->waiters) {
        process_close(p);
        if (!err)
            err = process_ended(p);
    }
    return err ? -1 : p->ended != ENDED_NOT;
}

/* Seconds, or None, to nanoseconds of CLOCK_MONOTONIC, FOREVER for None. */
static int deadline_from(PyObject *timeout, int64_t *deadline)
{
    *deadline = FOREVER;
    if (timeout == Py_None)
        return 0;
    double seconds = PyFloat_AsDouble(timeout);
    if (seconds == -1.0 && PyErr_Occurred())
        return -1;
    if (seconds < 1e9)
        *deadline = clock_ns() + (seconds > 0 ? (int64_t)(seconds * 1e9) : 0);
    return 0;
}

static PyObject *process_wait(PyObject *self, PyObject *args, PyObject *kwargs)
{
    static char *names[] = {"timeout", NULL};
    ProcessObject *p = (ProcessObject *)self;
    PyObject *timeout = Py_None;
    int64_t deadline;
    if (!PyArg_ParseTupleAndKeywords(args, kwargs, "|O", names, &timeout) || deadline_from(timeout, &deadline))
        return NULL;
    int ended = process_await(p, deadline);
    if (ended < 0)
        return NULL;
    return ended ? process_returncode(self, NULL) : PyObject_CallMethod(self, "_expired", "O", timeout);
}

static PyObject *process_poll(PyObject *self, PyObject *unused)
{
    (void)unused;
    return process_await((ProcessObject *)self, 0) < 0 ? NULL : process_returncode(self, NULL);
}

static PyObject *process_send_signal(PyObject *self, PyObject *arg)
{
    ProcessObject *p = (ProcessObject *)self;
    long sig = PyLong_AsLong(arg);
    if (sig == -1 && PyErr_Occurred())
        return NULL;
    if (!p->ended && p->pidfd >= 0) {
        long err = sys4(SYS_pidfd_send_signal, p->pidfd, sig, 0, 0);
        if (err < 0 && err != -ESRCH)
            return raise_errno((int)-err);
    }
    Py_RETURN_NONE;
}

static PyObject *process_detach(PyObject *self, PyObject *unused)
{
    ProcessObject *p = (ProcessObject *)self;
    int pidfd = p->pidfd;
    (void)unused;
    p->pidfd = -1;
    return PyLong_FromLong(pidfd);
}

/* Nobody refers to it any more and it has not been reaped: Python decides what becomes of it. */
static void process_finalize(PyObject *self)
{
    ProcessObject *p = (ProcessObject *)self;
    if (p->ended || p->pidfd < 0)
        return;
    PyObject *type, *value, *trace;
    PyErr_Fetch(&type, &value, &trace);
    PyObject *done = PyObject_CallMethod(self, "_abandoned", NULL);
    if (!done)
        PyErr_WriteUnraisable(self);
    Py_XDECREF(done);
    PyErr_Restore(type, value, trace);
}

static void process_dealloc(PyObject *self)
{
    ProcessObject *p = (ProcessObject *)self;
    PyTypeObject *type = Py_TYPE(self);
    process_close(p);
    Py_CLEAR(p->counts);
    Py_CLEAR(p->on_end);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyMemberDef process_members[] = {
    {"pid", T_INT, offsetof(ProcessObject, pid), READONLY, "the process's number"},
    {"pidfd", T_INT, offsetof(ProcessObject, pidfd), READONLY, "its pidfd; -1 once it has been reaped"},
    {"on_end", T_OBJECT, offsetof(ProcessObject, on_end), 0, "called without arguments once it has been reaped"},
    {"warm", T_INT, offsetof(ProcessObject, warm), READONLY, "WARM_*: what became of asking a warm template"},
    {"warm_detail", T_UINT, offsetof(ProcessObject, warm_detail), READONLY, "which drift, object or errno"},
    {"how", T_UINT, offsetof(ProcessObject, how), READONLY, "HOW_*: what its launch had to do without"},
    {NULL, 0, 0, 0, NULL},
};

static PyGetSetDef process_getset[] = {
    {"returncode", process_returncode, NULL, "exit status, or the negative of the signal; None until seen", NULL},
    {"temperature", process_temperature, NULL, "\"cold\" or \"warm\": how it was started", NULL},
    {"usage", process_usage, NULL, "getrusage(2)'s fields as a tuple; None unless reaped here", NULL},
    {NULL, NULL, NULL, NULL, NULL},
};

static PyMethodDef process_methods[] = {
    {"wait", (PyCFunction)(void (*)(void))process_wait, METH_VARARGS | METH_KEYWORDS,
     "wait(timeout=None) -> return code. Waits for the end by pidfd, without polling, `timeout` seconds at most.\n\n"
     "Raises subprocess.TimeoutExpired; ChildProcessError where somebody else has taken the status and the kernel "
     "keeps none."},
    {"poll", process_poll, METH_NOARGS, "poll() -> the return code, or None while the child runs."},
    {"send_signal", process_send_signal, METH_O, "send_signal(sig): through the pidfd; nothing once it has ended."},
    {"detach", process_detach, METH_NOARGS, "detach() -> the pidfd, the caller's from now on; -1: none."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot process_slots[] = {
    {Py_tp_dealloc, (void *)process_dealloc},
    {Py_tp_finalize, (void *)process_finalize},
    {Py_tp_members, process_members},
    {Py_tp_getset, process_getset},
    {Py_tp_methods, process_methods},
    {Py_tp_doc, "A child of this process. Subclasses say in _abandoned() what becomes of one that nobody waits for."},
    {0, NULL},
};

PyType_Spec process_spec = {
    .name = "elfolio._native.Process",
    .basicsize = sizeof(ProcessObject),
    .flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .slots = process_slots};
