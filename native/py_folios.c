/* py_folios: runs and sums of folios, as packed bytes: kernel/folio.py has their layout. */
#include "module.h"

#include <sys/vfs.h>

#include "folios.h"

static PyObject *results(const struct folios *f)
{
    PyObject *out;
    if (!f->sums)
        return PyBytes_FromStringAndSize((const char *)f->runs, (Py_ssize_t)(f->run_count * sizeof *f->runs));
    struct folio_sum *packed = PyMem_Malloc(FOLIO_SUMS * sizeof *packed);
    size_t count = 0;
    if (!packed)
        return PyErr_NoMemory();
    for (size_t i = 0; i < FOLIO_SUMS; i++)
        if (f->sums[i].pages)
            packed[count++] = f->sums[i];
    out = PyBytes_FromStringAndSize((const char *)packed, (Py_ssize_t)(count * sizeof *packed));
    PyMem_Free(packed);
    return out;
}

PyObject *py_file_folios(PyObject *self, PyObject *args)
{
    int fd, pagemap, flags;
    unsigned pmd;
    unsigned long long first, pages;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiiIKK", &fd, &pagemap, &flags, &pmd, &first, &pages))
        return NULL;
    struct folios f;
    uint64_t cached = 0;
    int err = pmd ? 0 : EINVAL;
    Py_BEGIN_ALLOW_THREADS
    if (!err)
        err = folios_begin(&f, pagemap, flags, -1, pmd, 0, 0);
    if (!err && (err = folios_of_file(&f, fd, first, pages, &cached)))
        folios_end(&f);
    Py_END_ALLOW_THREADS
    if (err)
        return raise_errno(err);
    PyObject *runs = results(&f);
    PyObject *out = runs ? Py_BuildValue("(NKii)", runs, (unsigned long long)cached, f.has_scan, f.hidden) : NULL;
    folios_end(&f);
    return out;
}

#define CACHE "elfolio.frame_cache"

static void cache_end(PyObject *capsule)
{
    frame_cache_free(PyCapsule_GetPointer(capsule, CACHE));
}

PyObject *py_frame_cache(PyObject *self, PyObject *none)
{
    struct frame_cache *cache = frame_cache_new();
    (void)self, (void)none;
    if (!cache)
        Py_RETURN_NONE;
    PyObject *capsule = PyCapsule_New(cache, CACHE, cache_end);
    if (!capsule)
        frame_cache_free(cache);
    return capsule;
}

PyObject *py_page_folios(PyObject *self, PyObject *args)
{
    int pagemap, flags, counts, summing;
    PyObject *kept;
    unsigned pmd, cont;
    unsigned long long first, pages;
    (void)self;
    if (!PyArg_ParseTuple(args, "iiiIIKKpO", &pagemap, &flags, &counts, &pmd, &cont, &first, &pages, &summing, &kept))
        return NULL;
    struct folios f;
    struct frame_cache *cache = kept == Py_None ? NULL : PyCapsule_GetPointer(kept, CACHE);
    if (!cache && PyErr_Occurred())
        return NULL;
    int err = pmd ? 0 : EINVAL;
    Py_BEGIN_ALLOW_THREADS
    if (!err)
        err = folios_begin(&f, pagemap, flags, counts, pmd, cont, summing);
    if (!err)
        f.cache = cache;
    if (!err && (err = folios_pages(&f, first, pages)))
        folios_end(&f);
    Py_END_ALLOW_THREADS
    if (err)
        return raise_errno(err);
    PyObject *packed = results(&f);
    PyObject *out = packed ? Py_BuildValue("(Nii)", packed, f.has_scan, f.hidden) : NULL;
    folios_end(&f);
    return out;
}

PyObject *py_cache_stat(PyObject *self, PyObject *args)
{
    int fd, err;
    unsigned long long start, length;
    struct cache_stat found;
    (void)self;
    if (!PyArg_ParseTuple(args, "iKK", &fd, &start, &length))
        return NULL;
    Py_BEGIN_ALLOW_THREADS
    err = cache_stat(fd, start, length, &found);
    Py_END_ALLOW_THREADS
    if (err)
        return raise_errno(err);
    return Py_BuildValue("(KKKKK)", (unsigned long long)found.cached, (unsigned long long)found.dirty,
                         (unsigned long long)found.writeback, (unsigned long long)found.evicted,
                         (unsigned long long)found.recently_evicted);
}

PyObject *py_mincore_truthful(PyObject *self, PyObject *args)
{
    int fd;
    unsigned long long size;
    (void)self;
    if (!PyArg_ParseTuple(args, "iK", &fd, &size))
        return NULL;
    int truthful = folios_truthful(fd, size);
    return truthful < 0 ? raise_errno(-truthful) : PyBool_FromLong(truthful);
}

PyObject *py_file_system(PyObject *self, PyObject *arg)
{
    struct statfs status;
    long fd = PyLong_AsLong(arg);
    (void)self;
    if (fd == -1 && PyErr_Occurred())
        return NULL;
    return fstatfs((int)fd, &status) ? raise_errno(errno) : PyLong_FromLong((long)status.f_type);
}
