/* module: Python's view of the C core. The only files here that include Python.h are this one and
 * py_*.c; they convert, check bounds, and release the interpreter lock around the work. */
#include "module.h"

#include <elf.h>
#include <fcntl.h>
#include <string.h>

#include "image.h"
#include "proxy.h"
#include "status.h"

PyObject *raise_errno(int err)
{
    errno = err;
    return PyErr_SetFromErrno(PyExc_OSError);
}

PyObject *usage_tuple(const struct rusage *u)
{
    double user = (double)u->ru_utime.tv_sec + (double)u->ru_utime.tv_usec * 1e-6;
    double system = (double)u->ru_stime.tv_sec + (double)u->ru_stime.tv_usec * 1e-6;
    return Py_BuildValue("(ddllllllllllllll)", user, system, u->ru_maxrss, u->ru_ixrss, u->ru_idrss, u->ru_isrss,
                         u->ru_minflt, u->ru_majflt, u->ru_nswap, u->ru_inblock, u->ru_oublock, u->ru_msgsnd,
                         u->ru_msgrcv, u->ru_nsignals, u->ru_nvcsw, u->ru_nivcsw);
}

static PyObject *py_await_end(PyObject *self, PyObject *args)
{
    int pidfd, ended;
    long long deadline;
    (void)self;
    if (!PyArg_ParseTuple(args, "iL", &pidfd, &deadline))
        return NULL;
    for (;;) {
        Py_BEGIN_ALLOW_THREADS
        ended = await_end(pidfd, deadline);
        Py_END_ALLOW_THREADS
        if (ended >= 0)
            return PyBool_FromLong(ended);
        if (ended != -EINTR)
            return raise_errno(-ended);
        if (PyErr_CheckSignals())
            return NULL;
    }
}

static PyObject *py_take_status(PyObject *self, PyObject *arg)
{
    struct ending ending;
    long pidfd = PyLong_AsLong(arg);
    (void)self;
    if (pidfd == -1 && PyErr_Occurred())
        return NULL;
    int ended = take_status((int)pidfd, &ending);
    if (ended < 0)
        return raise_errno(-ended);
    if (ended == ENDED_NOT)
        Py_RETURN_NONE;
    PyObject *usage = ended == ENDED ? usage_tuple(&ending.usage) : Py_NewRef(Py_None);
    return usage ? Py_BuildValue("(iiN)", ended, ending.code, usage) : NULL;
}

static PyMethodDef methods[] = {
    {"await_end", py_await_end, METH_VARARGS,
     "await_end(pidfd, deadline_ns) -> bool: whether the process ended before the deadline (-1: none)."},
    {"take_status", py_take_status, METH_O,
     "take_status(pidfd) -> None | (how, code, rusage | None): reaps a process that has ended."},
    {"record", py_record, METH_VARARGS,
     "record(path, argv, env, fd, faults) -> (status, errno, step, errno): writes what it does to its memory."},
    {"file_folios", py_file_folios, METH_VARARGS,
     "file_folios(fd, pagemap, kpageflags, pmd, first, pages) -> (runs, cached, has_scan, hidden)."},
    {"cache_stat", py_cache_stat, METH_VARARGS,
     "cache_stat(fd, start, length) -> pages cached, dirty, in writeback, evicted, recently evicted: cachestat(2)."},
    {"mincore_truthful", py_mincore_truthful, METH_VARARGS,
     "mincore_truthful(fd, size) -> bool: whether mincore says what is cached of the file."},
    {"file_system", py_file_system, METH_O, "file_system(fd) -> int: statfs's f_type."},
    {"frame_cache", py_frame_cache, METH_NOARGS, "frame_cache() -> words of kpageflags for page_folios, or None."},
    {"page_folios", py_page_folios, METH_VARARGS,
     "page_folios(pagemap, kpageflags, kpagecount, pmd, cont, first, pages, summing, cache) -> (packed, has_scan, "
     "hidden)."},
    {"ring_read", py_ring_read, METH_VARARGS,
     "ring_read(fd, to, offset, room, least, chunk, depth, progress) -> bool: False where there is no io_uring."},
    {"populate", py_populate, METH_VARARGS,
     "populate(address, size, huge, pagemap) -> (whole, huge): of the whole huge pages, those that one entry maps."},
    {NULL, NULL, 0, NULL},
};

struct constant {
    const char *name;
    long value;
};

static const struct constant constants[] = {
    {"OP_CLOSE", OP_CLOSE},
    {"OP_DUP2", OP_DUP2},
    {"OP_FCHDIR", OP_FCHDIR},
    {"OP_CHDIR", OP_CHDIR},
    {"OP_OPEN", OP_OPEN},
    {"OP_CLOSE_RANGE", OP_CLOSE_RANGE},
    {"OP_SIGMASK", OP_SIGMASK},
    {"OP_SIGDEFAULT", OP_SIGDEFAULT},
    {"OP_SAVE", OP_SAVE},
    {"OP_RESTORE", OP_RESTORE},
    {"OP_KEEP", OP_KEEP},
    {"OP_UMASK", OP_UMASK},
    {"OP_RLIMIT", OP_RLIMIT},
    {"OP_NICE", OP_NICE},
    {"OP_SETSID", OP_SETSID},
    {"OP_SETPGID", OP_SETPGID},
    {"OP_TERMINAL", OP_TERMINAL},
    {"OP_GROUPS", OP_GROUPS},
    {"OP_GID", OP_GID},
    {"OP_UID", OP_UID},
    {"OP_NO_NEW_PRIVS", OP_NO_NEW_PRIVS},
    {"OP_PDEATHSIG", OP_PDEATHSIG},
    {"OP_OOM_SCORE", OP_OOM_SCORE},
    {"OP_AFFINITY", OP_AFFINITY},
    {"OP_MERGE", OP_MERGE},
    {"STEP_EXEC", STEP_EXEC},
    {"STEP_CGROUP", STEP_CGROUP},
    {"STEP_CLONE", STEP_CLONE},
    {"STEP_PIDFD", STEP_PIDFD},
    {"LAUNCH_COPY_MEMORY", LAUNCH_COPY_MEMORY},
    {"LAUNCH_REPEATABLE", LAUNCH_REPEATABLE},
    {"LAUNCH_WHOLE", LAUNCH_WHOLE},
    {"STEP_TRACE", STEP_TRACE},
    {"STEP_WARM", STEP_WARM},
    {"HOW_WARM", HOW_WARM},
    {"HOW_NO_CLONE3", HOW_NO_CLONE3},
    {"HOW_PIDFD_OPENED", HOW_PIDFD_OPENED},
    {"HOW_NAME_LOST", HOW_NAME_LOST},
    {"HOW_COPIED_MEMORY", HOW_COPIED_MEMORY},
    {"HOW_RETRIED_BUSY", HOW_RETRIED_BUSY},
    {"WARM_STARTED", WARM_STARTED},
    {"WARM_STEP_FAILED", WARM_STEP_FAILED},
    {"WARM_LOST", WARM_LOST},
    {"WARM_FORBIDDEN", WARM_FORBIDDEN},
    {"WARM_REFUSED", WARM_REFUSED},
    {"WARM_GONE", WARM_GONE},
    {"WARM_FROZEN", WARM_FROZEN},
    {"WARM_BARREN", WARM_BARREN},
    {"WARM_BUSY", WARM_BUSY},
    {"WARM_DRIFTED", WARM_DRIFTED},
    {"WARM_STALE", WARM_STALE},
    {"WARM_ENVIRONMENT", WARM_ENVIRONMENT},
    {"WARM_TOO_LARGE", WARM_TOO_LARGE},
    {"WARM_DESCRIPTOR", WARM_DESCRIPTOR},
    {"WARM_WORN", WARM_WORN},
    {"WARM_IDLE", WARM_IDLE},
    {"WARM_UNTRIED", WARM_OUTCOMES},
    {"WARM_FDS", WARM_FDS},
    {"WARM_FD_FIRST", WARM_FD_FIRST},
    {"WARM_FD_LAST", WARM_FD_LAST},
    {"WARM_FD_CONTROL", WARM_FD_CONTROL},
    {"WARM_FD_OWNER", WARM_FD_OWNER},
    {"WARM_FD_SLOTS", WARM_FD_SLOTS},
    {"WARM_SLOT_BYTES", WARM_SLOT_BYTES},
    {"WARM_FD_TAKEN", WARM_FD_TAKEN},
    {"WARM_ROOM", WARM_ROOM},
    {"WARM_MAGIC", (long)WARM_MAGIC},
    {"PROXY_MEET", PROXY_MEET},
#if defined(__x86_64__)
    {"MACHINE", EM_X86_64},
#else
    {"MACHINE", EM_AARCH64},
#endif
    {"LOST_CODE", LOST_CODE},
    {"IMAGE_READY", IMAGE_READY},
    {"IMAGE_FOREIGN", IMAGE_FOREIGN},
    {"IMAGE_UNAUTHORIZED", IMAGE_UNAUTHORIZED},
    {"IMAGE_STALE", IMAGE_STALE},
    {"IMAGE_FAILED", IMAGE_FAILED},
    {"IMAGE_CHANGED", IMAGE_CHANGED},
    {"IMAGE_OBJECT", IMAGE_OBJECT},
    {"ENDED", ENDED},
    {"ENDED_TAKEN", ENDED_TAKEN},
    {"ENDED_LOST", ENDED_LOST},
    {"CAPTURE_OPEN", CAPTURE_OPEN},
    {"CAPTURE_ALIVE", CAPTURE_ALIVE},
    {"CAPTURE_INPUT", CAPTURE_INPUT},
    {NULL, 0},
};

PyTypeObject *counts_type;
PyTypeObject *process_type;
PyTypeObject *proxy_type;
PyTypeObject *steps_type;
PyTypeObject *surroundings_type;
PyTypeObject *warm_type;
PyTypeObject *warm_plan_type;

/* The module's reference keeps the type alive; `kept` gets one of its own. */
static int add_type(PyObject *module, PyType_Spec *spec, PyTypeObject **kept)
{
    PyObject *type = PyType_FromSpec(spec);
    int err = type ? PyModule_AddType(module, (PyTypeObject *)type) : -1;
    if (!err && kept)
        *kept = (PyTypeObject *)Py_NewRef(type);
    Py_XDECREF(type);
    return err;
}

static int module_exec(PyObject *module)
{
    for (const struct constant *c = constants; c->name; c++)
        if (PyModule_AddIntConstant(module, c->name, c->value))
            return -1;
    if (add_type(module, &image_spec, NULL) || add_type(module, &capture_spec, NULL) ||
        add_type(module, &buddy_spec, NULL) || add_type(module, &counts_spec, &counts_type) || add_type(module, &process_spec, &process_type) ||
        add_type(module, &steps_spec, &steps_type) || add_type(module, &proxy_spec, &proxy_type) ||
        add_type(module, &surroundings_spec, &surroundings_type) || add_type(module, &warm_spec, &warm_type) ||
        add_type(module, &warm_plan_spec, &warm_plan_type) || add_type(module, &memory_spec, NULL))
        return -1;
    int err = image_module_init();
    if (err) {
        raise_errno(err);
        return -1;
    }
    return 0;
}

static PyModuleDef_Slot slots[] = {{Py_mod_exec, (void *)module_exec}, {0, NULL}};

static struct PyModuleDef definition = {
    PyModuleDef_HEAD_INIT, .m_name = "elfolio._native", .m_size = 0, .m_methods = methods, .m_slots = slots};

PyMODINIT_FUNC PyInit__native(void)
{
    return PyModuleDef_Init(&definition);
}
