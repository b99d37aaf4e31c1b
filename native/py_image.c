/* py_image: elfolio._native.Image, the held files of a template. */
#include "module.h"

#include <stdlib.h>
#include <string.h>

#include "image.h"

extern char **environ;

typedef struct {
    PyObject ob_base;
    struct image image;
} ImageObject;

/* A NULL-terminated array of C strings, and the Python objects that own them. */
struct strings {
    char **array;
    PyObject *owners;
};

static void strings_free(struct strings *s)
{
    free(s->array);
    Py_CLEAR(s->owners);
}

static int strings_init(struct strings *s, Py_ssize_t count)
{
    s->array = calloc((size_t)count + 1, sizeof *s->array);
    s->owners = PyList_New(0);
    if (s->array && s->owners)
        return 0;
    if (!s->array)
        PyErr_NoMemory();
    strings_free(s);
    return -1;
}

/* Steals `bytes`. */
static int strings_add(struct strings *s, Py_ssize_t at, PyObject *bytes)
{
    if (!bytes)
        return -1;
    s->array[at] = PyBytes_AsString(bytes);
    int err = s->array[at] ? PyList_Append(s->owners, bytes) : -1;
    Py_DECREF(bytes);
    return err;
}

/* str, bytes or a path, as the file system encodes it; refuses NUL bytes. */
static PyObject *encoded(PyObject *value)
{
    PyObject *bytes = NULL;
    return PyUnicode_FSConverter(value, &bytes) ? bytes : NULL;
}

static int strings_from_argv(struct strings *s, PyObject *argv)
{
    Py_ssize_t count = PySequence_Size(argv);
    if (count < 0 || strings_init(s, count))
        return -1;
    for (Py_ssize_t i = 0; i < count; i++) {
        PyObject *item = PySequence_GetItem(argv, i);
        int err = item ? strings_add(s, i, encoded(item)) : -1;
        Py_XDECREF(item);
        if (err) {
            strings_free(s);
            return -1;
        }
    }
    return 0;
}

static PyObject *variable(PyObject *key, PyObject *value)
{
    PyObject *k = encoded(key), *v = k ? encoded(value) : NULL, *out = NULL;
    if (v) {
        size_t kn = (size_t)PyBytes_Size(k), vn = (size_t)PyBytes_Size(v);
        const char *name = PyBytes_AsString(k);
        if (memchr(name, '=', kn))
            PyErr_SetString(PyExc_ValueError, "illegal environment variable name");
        else if ((out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)(kn + 1 + vn)))) {
            char *at = PyBytes_AsString(out);
            memcpy(at, name, kn);
            at[kn] = '=';
            memcpy(at + kn + 1, PyBytes_AsString(v), vn);
        }
    }
    Py_XDECREF(k);
    Py_XDECREF(v);
    return out;
}

static int strings_from_mapping(struct strings *s, PyObject *env)
{
    PyObject *items = PyMapping_Items(env);
    Py_ssize_t count = items ? PyList_Size(items) : -1;
    int err = count < 0 ? -1 : strings_init(s, count);
    for (Py_ssize_t i = 0; !err && i < count; i++) {
        PyObject *pair = PyList_GetItem(items, i);
        PyObject *key = PyTuple_GetItem(pair, 0), *value = key ? PyTuple_GetItem(pair, 1) : NULL;
        err = value ? strings_add(s, i, variable(key, value)) : -1;
        if (err)
            strings_free(s);
    }
    Py_XDECREF(items);
    return err;
}

static int passes(PyObject *allowed, const char *variable)
{
    if (allowed == Py_None)
        return 1;
    PyObject *name = PyBytes_FromStringAndSize(variable, (Py_ssize_t)strcspn(variable, "="));
    int pass = name ? PySet_Contains(allowed, name) : -1;
    Py_XDECREF(name);
    return pass;
}

/* A copy, in one block: once the interpreter lock is released, another thread's os.environ[...] = may free
 * what the child reads. `allowed` is None, or a set of the names (bytes) that may pass. */
static int strings_from_environ(struct strings *s, PyObject *allowed)
{
    size_t count = 0, bytes = 0;
    *s = (struct strings){NULL, NULL};
    for (; environ && environ[count]; count++)
        bytes += strlen(environ[count]) + 1;
    s->array = malloc((count + 1) * sizeof *s->array + bytes);
    if (!s->array) {
        PyErr_NoMemory();
        return -1;
    }
    char *at = (char *)(s->array + count + 1);
    size_t kept = 0;
    for (size_t i = 0; i < count; i++) {
        int pass = passes(allowed, environ[i]);
        if (pass < 0) {
            strings_free(s);
            return -1;
        }
        if (!pass)
            continue;
        size_t size = strlen(environ[i]) + 1;
        s->array[kept++] = memcpy(at, environ[i], size);
        at += size;
    }
    s->array[kept] = NULL;
    return 0;
}

/* env: None or a frozenset of names: the host's own, whole or those names; else a mapping. */
static int strings_from_env(struct strings *s, PyObject *env)
{
    if (env == Py_None || PyAnySet_Check(env))
        return strings_from_environ(s, env);
    return strings_from_mapping(s, env);
}

static int image_add_file(struct image *image, PyObject *pair)
{
    const char *path;
    Py_ssize_t length;
    int fd;
    if (!PyArg_ParseTuple(pair, "z#i", &path, &length, &fd))
        return -1;
    struct held_file *f = &image->file[image->count];
    f->fd = fd;
    f->path = path ? strdup(path) : NULL;
    if (path && !f->path) {
        PyErr_NoMemory();
        return -1;
    }
    image->count++;
    return 0;
}

static void image_dealloc(PyObject *self)
{
    PyTypeObject *type = Py_TYPE(self);
    image_free(&((ImageObject *)self)->image);
    ((freefunc)PyType_GetSlot(type, Py_tp_free))(self);
    Py_DECREF(type);
}

static PyObject *image_new(PyTypeObject *type, PyObject *args, PyObject *kwargs)
{
    PyObject *files;
    int executed, lease;
    (void)kwargs;
    if (!PyArg_ParseTuple(args, "O!ip", &PyList_Type, &files, &executed, &lease))
        return NULL;
    Py_ssize_t count = PyList_Size(files);
    if (count < 1 || count > IMAGE_FILES || executed < 0 || executed >= count) {
        PyErr_SetString(PyExc_ValueError, "one to six files, one of which is executed");
        return NULL;
    }
    ImageObject *self = (ImageObject *)((allocfunc)PyType_GetSlot(type, Py_tp_alloc))(type, 0);
    if (!self)
        return NULL;
    for (Py_ssize_t i = 0; i < count; i++)
        if (image_add_file(&self->image, PyList_GetItem(files, i)))
            goto fail;
    self->image.executed = executed;
    int err;
    Py_BEGIN_ALLOW_THREADS /* it may wait for a tick of the clock */
    err = image_init(&self->image, lease);
    Py_END_ALLOW_THREADS
    /* Taken out of the list, so that a caller that is interrupted does not close them again. */
    if (!err && !PyList_SetSlice(files, 0, count, NULL))
        return (PyObject *)self;
    if (err)
        raise_errno(err);
fail:
    /* The caller keeps what it passed as long as there is no object to own it. */
    for (int i = 0; i < self->image.count; i++)
        self->image.file[i].fd = -1;
    Py_DECREF(self);
    return NULL;
}

static PyObject *refusal_tuple(const struct image_result *r, const struct launch *l)
{
    return Py_BuildValue("(ikiii)", (int)r->status, (unsigned long)r->detail, r->index, r->error, l->failed);
}

static PyObject *image_py_check(PyObject *self, PyObject *unused)
{
    struct image *image = &((ImageObject *)self)->image;
    struct launch none = {.failed = 0};
    struct image_result result;
    (void)unused;
    Py_BEGIN_ALLOW_THREADS
    image_check(image, &result);
    Py_END_ALLOW_THREADS
    return result.status == IMAGE_READY ? Py_NewRef(Py_None) : refusal_tuple(&result, &none);
}

static PyObject *image_py_launch(PyObject *self, PyObject *args)
{
    struct image *image = &((ImageObject *)self)->image;
    PyObject *type, *counts, *argv, *env, *out = NULL;
    PyObject *plan, *warm = Py_None, *warm_plan = Py_None, *proxy = Py_None;
    const char *path;
    Py_ssize_t path_size;
    struct strings arg_strings, env_strings;
    int exec_fd, cgroup_fd, strict;
    unsigned flags;

    if (!PyArg_ParseTuple(args, "O!O!OOO!z#iiIp|OOO", &PyType_Type, &type, counts_type, &counts, &argv, &env, steps_type,
                          &plan, &path, &path_size, &exec_fd, &cgroup_fd, &flags, &strict, &warm,
                          &warm_plan, &proxy))
        return NULL;
    if (!PyType_IsSubtype((PyTypeObject *)type, process_type)) {
        PyErr_SetString(PyExc_TypeError, "a child's type must be a subclass of Process");
        return NULL;
    }
    if ((warm != Py_None && (Py_TYPE(warm) != warm_type || Py_TYPE(warm_plan) != warm_plan_type)) ||
        (proxy != Py_None && Py_TYPE(proxy) != proxy_type)) {
        PyErr_SetString(PyExc_TypeError, "a Warm goes with a WarmPlan, and a tracer is a Proxy");
        return NULL;
    }
    if (strings_from_argv(&arg_strings, argv))
        return NULL;
    PyObject *process = process_unborn((PyTypeObject *)type, counts);
    if (process && !strings_from_env(&env_strings, env)) {
        struct image_result result;
        struct launch l = {.path = path, .exec_fd = exec_fd, .argv = arg_strings.array, .envp = env_strings.array,
                           .cgroup_fd = cgroup_fd, .flags = flags, .pid = -1, .pidfd = -1};
        struct warm_way way = {NULL, NULL};
        steps_of(plan, &l);
        if (warm != Py_None)
            way = (struct warm_way){warm_of(warm), warm_plan_of(warm_plan)};
        if (proxy != Py_None)
            l.rendezvous = rendezvous_of(proxy);
        Py_BEGIN_ALLOW_THREADS
        image_launch(image, &l, way, strict, &result);
        Py_END_ALLOW_THREADS
        if (result.status == IMAGE_READY) {
            process_born(process, &l, &result);
            out = Py_NewRef(process);
        } else {
            out = refusal_tuple(&result, &l);
        }
        strings_free(&env_strings);
    }
    Py_XDECREF(process);
    strings_free(&arg_strings);
    return out;
}

static PyObject *image_py_key(PyObject *self, PyObject *arg)
{
    struct image *image = &((ImageObject *)self)->image;
    long i = PyLong_AsLong(arg);
    if (i < 0 || i >= image->count) {
        if (!PyErr_Occurred())
            PyErr_SetString(PyExc_IndexError, "no such held file");
        return NULL;
    }
    const struct file_key *k = &image->file[i].key;
    return Py_BuildValue("(KKKIIILLLL)", (unsigned long long)k->device, (unsigned long long)k->inode,
                         (unsigned long long)k->size, k->mode, k->owner, k->group, (long long)k->ctime_s,
                         (long long)k->ctime_ns, (long long)k->mtime_s, (long long)k->mtime_ns);
}

static PyObject *image_py_leasable(PyObject *self, PyObject *unused)
{
    (void)unused;
    return PyBool_FromLong(((ImageObject *)self)->image.leasable);
}

static PyMethodDef image_methods[] = {
    {"check", image_py_check, METH_NOARGS, "check() -> None, or why a launch would be refused now: (status, detail, file, errno, step)."},
    {"launch", image_py_launch, METH_VARARGS,
     "launch(type, counts, argv, env, steps, blob, path, exec_fd, cgroup_fd, flags, strict) -> a `type`, or as "
     "check()."},
    {"key", image_py_key, METH_O, "key(index) -> the identity held of that file."},
    {"leasable", image_py_leasable, METH_NOARGS, "leasable() -> whether launches hold a read lease."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot image_slots[] = {
    {Py_tp_new, (void *)image_new},
    {Py_tp_dealloc, (void *)image_dealloc},
    {Py_tp_methods, image_methods},
    {Py_tp_doc, "Image(files, executed, lease): files is a list of (path or None, descriptor) pairs, and empty from then on."},
    {0, NULL},
};

PyType_Spec image_spec = {.name = "elfolio._native.Image",
                          .basicsize = sizeof(ImageObject),
                          .flags = Py_TPFLAGS_DEFAULT,
                          .slots = image_slots};
