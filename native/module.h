/* module.h: what the binding files share. Python.h first: it sets feature macros. */
#ifndef ELFOLIO_MODULE_H
#define ELFOLIO_MODULE_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>
#include <errno.h>

#include "capture.h"

extern PyType_Spec image_spec;
extern PyType_Spec capture_spec;

/* Sets OSError (or its subclass) and returns NULL. */
PyObject *raise_errno(int err);

#endif
