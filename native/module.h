/* module.h: what the binding files share. Python.h first: it sets feature macros. */
#ifndef ELFOLIO_MODULE_H
#define ELFOLIO_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>

#include <sys/resource.h>

#include "capture.h"
#include "image.h"

extern PyType_Spec image_spec;
extern PyType_Spec buddy_spec;
extern PyType_Spec capture_spec;
extern PyType_Spec counts_spec;
extern PyType_Spec process_spec;
extern PyType_Spec steps_spec;
extern PyType_Spec proxy_spec;
extern PyType_Spec surroundings_spec;
extern PyType_Spec warm_spec;
extern PyType_Spec warm_plan_spec;
extern PyType_Spec memory_spec;

/* The types that Image.launch is handed, kept so that what it gets can be checked. */
extern PyTypeObject *counts_type;
extern PyTypeObject *process_type;
extern PyTypeObject *proxy_type;
extern PyTypeObject *steps_type;
extern PyTypeObject *surroundings_type;
extern PyTypeObject *warm_type;
extern PyTypeObject *warm_plan_type;

/* The return code of a child whose status somebody else took, on a kernel that keeps none. */
#define LOST_CODE 255

/* tp_dealloc of an object that holds no other. */
void plain_dealloc(PyObject *self);
PyObject *py_record(PyObject *self, PyObject *args);
PyObject *py_file_folios(PyObject *self, PyObject *args);
PyObject *py_cache_stat(PyObject *self, PyObject *args);
PyObject *py_mincore_truthful(PyObject *self, PyObject *args);
PyObject *py_file_system(PyObject *self, PyObject *arg);
PyObject *py_frame_cache(PyObject *self, PyObject *none);
PyObject *py_page_folios(PyObject *self, PyObject *args);
PyObject *py_ring_read(PyObject *self, PyObject *args);
PyObject *py_populate(PyObject *self, PyObject *args);
/* Sets OSError (or its subclass) and returns NULL. */
PyObject *raise_errno(int err);
PyObject *usage_tuple(const struct rusage *usage);
/* An instance of `type`, a subclass of Process, made before its process: nothing may fail afterwards. */
PyObject *process_unborn(PyTypeObject *type, PyObject *counts);
void process_born(PyObject *self, const struct launch *l, const struct image_result *r);
/* What these objects hold, for as long as they live. */
struct warm *warm_of(PyObject *warm);
const struct surroundings *surroundings_of(PyObject *surroundings);
const struct warm_plan *warm_plan_of(PyObject *plan);
struct rendezvous *rendezvous_of(PyObject *proxy);
/* The steps that a Steps object holds, for as long as it lives. */
void steps_of(PyObject *steps, struct launch *l);
size_t blob_bytes_of(PyObject *steps);

#endif
