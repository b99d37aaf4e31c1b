/* py_record: elfolio._native.record, a program whose memory calls are written down. */
#include "module.h"

#include <stdlib.h>

#include "record.h"

/* A list of bytes as execve wants it; the bytes stay the list's. NULL with an exception. */
static char **strings(PyObject *list)
{
    Py_ssize_t count = PyList_Size(list);
    char **out = count < 0 ? NULL : calloc((size_t)count + 1, sizeof *out);
    if (count >= 0 && !out)
        return (char **)PyErr_NoMemory();
    for (Py_ssize_t i = 0; i < count; i++) {
        Py_ssize_t length;
        if (PyBytes_AsStringAndSize(PyList_GetItem(list, i), &out[i], &length)) {
            free(out);
            return NULL;
        }
    }
    return out;
}

PyObject *py_record(PyObject *self, PyObject *args)
{
    struct record_plan plan = {0};
    struct record_result result;
    PyObject *argv, *env, *out = NULL;
    (void)self;
    if (!PyArg_ParseTuple(args, "yOOip", &plan.path, &argv, &env, &plan.out, &plan.faults))
        return NULL;
    char **arguments = strings(argv), **variables = arguments ? strings(env) : NULL;
    if (variables) {
        plan.argv = arguments;
        plan.env = variables;
        Py_BEGIN_ALLOW_THREADS
        record_run(&plan, &result);
        Py_END_ALLOW_THREADS
        out = Py_BuildValue("(iisi)", result.status, result.error, result.step, result.write_error);
    }
    free(arguments);
    free(variables);
    return out;
}
