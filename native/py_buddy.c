/* py_buddy: elfolio._native.Buddy, the model of a memory zone (buddy.h). */
#include "module.h"

#include <string.h>

#include "buddy.h"

typedef struct {
    PyObject ob_base;
    struct buddy *zone;
} BuddyObject;

static struct buddy *zone_of(PyObject *self)
{
    return ((BuddyObject *)self)->zone;
}

static PyObject *refused(const char *what)
{
    PyErr_SetString(PyExc_ValueError, what);
    return NULL;
}

static PyObject *buddy_py_new(PyTypeObject *type, PyObject *args, PyObject *keywords)
{
    unsigned long long pages, seed;
    (void)keywords;
    if (!PyArg_ParseTuple(args, "KK", &pages, &seed))
        return NULL;
    if (!pages || pages % (1u << (BUDDY_ORDERS - 1)) || pages > 1ull << 31)
        return refused("pages: a multiple of 1024, at most 2^31");
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    BuddyObject *self = (BuddyObject *)alloc(type, 0);
    if (!self)
        return NULL;
    self->zone = buddy_new((uint32_t)pages, seed);
    if (self->zone)
        return (PyObject *)self;
    Py_DECREF((PyObject *)self);
    return PyErr_NoMemory();
}

static void buddy_dealloc(PyObject *self)
{
    buddy_free(zone_of(self));
    plain_dealloc(self);
}

/* What may be handed out, and to whom. */
static int fits(unsigned order, int kind, unsigned owner, int flags)
{
    return order < BUDDY_ORDERS && flags >= 0 && flags >> BUDDY_AGAIN <= BUDDY_MOST_AGAIN && kind >= KERNEL && kind < PAGE_KINDS && owner < BUDDY_OWNERS;
}

static PyObject *buddy_py_take(PyObject *self, PyObject *args)
{
    unsigned order, owner, pages;
    int kind, flags;
    if (!PyArg_ParseTuple(args, "IiIIi", &order, &kind, &owner, &pages, &flags))
        return NULL;
    if (!fits(order, kind, owner, flags))
        return refused("order, kind, owner or flags out of range");
    return PyLong_FromUnsignedLong(buddy_take(zone_of(self), order, (enum page_kind)kind, owner, pages, flags));
}

static PyObject *buddy_py_read(PyObject *self, PyObject *args)
{
    unsigned owner, from, pages, most, window;
    int kind, flags;
    if (!PyArg_ParseTuple(args, "iIIIIIi", &kind, &owner, &from, &pages, &most, &window, &flags))
        return NULL;
    if (!fits(most, kind, owner, flags) || (kind != CACHE && kind != BIGFILE) || !window || window > 1u << 20 ||
        (uint64_t)from + pages > 1u << 31)
        return refused("order, kind, owner, window or place out of range");
    return PyLong_FromUnsignedLong(
        buddy_read(zone_of(self), (enum page_kind)kind, owner, from, pages, most, window, flags));
}

static PyObject *buddy_py_drop(PyObject *self, PyObject *args)
{
    unsigned owner, per_mille;
    if (!PyArg_ParseTuple(args, "II", &owner, &per_mille))
        return NULL;
    if (owner >= BUDDY_OWNERS)
        return refused("owner out of range");
    return PyLong_FromUnsignedLong(buddy_drop(zone_of(self), owner, per_mille));
}

static PyObject *buddy_py_forget(PyObject *self, PyObject *args)
{
    unsigned owner;
    int kind;
    if (!PyArg_ParseTuple(args, "iI", &kind, &owner))
        return NULL;
    buddy_forget(zone_of(self), (enum page_kind)kind, owner);
    Py_RETURN_NONE;
}

static PyObject *buddy_py_pin(PyObject *self, PyObject *args)
{
    unsigned page, order, owner;
    int kind;
    if (!PyArg_ParseTuple(args, "IIiI", &page, &order, &kind, &owner))
        return NULL;
    if (!fits(order, kind, owner, 0) || page % (1u << order) || page >= zone_of(self)->pages)
        return refused("page, order, kind or owner out of range");
    return PyBool_FromLong(!buddy_pin(zone_of(self), page, order, (enum page_kind)kind, owner));
}

/* For a block that is in use as a whole: which list it goes to when it is freed. */
static PyObject *buddy_py_retype(PyObject *self, PyObject *args)
{
    unsigned block, type;
    struct buddy *z = zone_of(self);
    if (!PyArg_ParseTuple(args, "II", &block, &type))
        return NULL;
    if (block >= z->blocks || type >= MIGRATE_TYPES)
        return refused("block or type out of range");
    z->block_type[block] = (uint8_t)type;
    Py_RETURN_NONE;
}

/* map(flags, unused, used): flags as /proc/kpageflags has them, 8 bytes a page. */
static PyObject *buddy_py_map(PyObject *self, PyObject *args)
{
    struct buddy *z = zone_of(self);
    Py_buffer flags;
    unsigned unused, used;
    if (!PyArg_ParseTuple(args, "y*II", &flags, &unused, &used))
        return NULL;
    int fine = (uint64_t)flags.len / 8 <= z->pages && flags.len % 8 == 0 && (uintptr_t)flags.buf % 8 == 0 &&
               unused < BUDDY_OWNERS && used < BUDDY_OWNERS;
    if (fine)
        buddy_map(z, (const uint64_t *)flags.buf, (uint32_t)(flags.len / 8), unused, used);
    PyBuffer_Release(&flags);
    if (!fine)
        return refused("flags or owners out of range");
    Py_RETURN_NONE;
}

static PyObject *buddy_py_watermarks(PyObject *self, PyObject *args)
{
    struct buddy *z = zone_of(self);
    unsigned min, low, high;
    if (!PyArg_ParseTuple(args, "III", &min, &low, &high))
        return NULL;
    if (min > low || low > high || high > z->pages)
        return refused("watermarks out of order");
    z->min = min;
    z->low = low;
    z->high = high;
    Py_RETURN_NONE;
}

static PyObject *buddy_py_copy(PyObject *self, PyObject *none)
{
    PyTypeObject *type = Py_TYPE(self);
    allocfunc alloc = (allocfunc)PyType_GetSlot(type, Py_tp_alloc);
    BuddyObject *copy = (BuddyObject *)alloc(type, 0);
    (void)none;
    if (!copy)
        return NULL;
    copy->zone = buddy_copy(zone_of(self));
    if (copy->zone)
        return (PyObject *)copy;
    Py_DECREF((PyObject *)copy);
    return PyErr_NoMemory();
}

static PyObject *buddy_py_compact(PyObject *self, PyObject *none)
{
    (void)none;
    buddy_compact_all(zone_of(self));
    Py_RETURN_NONE;
}

/* A tuple; steals nothing, and returns NULL where a part could not be made. */
static PyObject *numbers(const uint64_t *values, Py_ssize_t count)
{
    PyObject *out = PyTuple_New(count);
    for (Py_ssize_t i = 0; out && i < count; i++) {
        PyObject *item = PyLong_FromUnsignedLongLong(values[i]);
        if (!item || PyTuple_SetItem(out, i, item))
            Py_CLEAR(out);
    }
    return out;
}

static PyObject *buddy_py_free_counts(PyObject *self, PyObject *none)
{
    uint64_t values[MIGRATE_TYPES * BUDDY_ORDERS];
    const struct buddy *z = zone_of(self);
    (void)none;
    for (unsigned type = 0; type < MIGRATE_TYPES; type++)
        for (unsigned order = 0; order < BUDDY_ORDERS; order++)
            values[type * BUDDY_ORDERS + order] = z->counts[type][order];
    return numbers(values, MIGRATE_TYPES * BUDDY_ORDERS);
}

static PyObject *buddy_py_done(PyObject *self, PyObject *none)
{
    (void)none;
    const struct buddy_counts *done = &zone_of(self)->done;
    return numbers((const uint64_t *)done, sizeof *done / sizeof(uint64_t));
}

static PyObject *buddy_py_levels(PyObject *self, PyObject *none)
{
    const struct buddy *z = zone_of(self);
    (void)none;
    return Py_BuildValue("(IIII)", z->free, z->min, z->low, z->high);
}

/* Of each page block 8 words of 16 bits: migrate type + 16 * (largest free order + 1) + 256 * (largest order in use + 1),
 * and pages free, of the kernel, slab, anonymous, cached, of the big file, held. */
static PyObject *buddy_py_blocks(PyObject *self, PyObject *none)
{
    const struct buddy *z = zone_of(self);
    PyObject *out = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)z->blocks * 16);
    uint16_t *words = out ? (uint16_t *)PyBytes_AsString(out) : NULL;
    (void)none;
    if (!words)
        return NULL;
    memset(words, 0, (size_t)z->blocks * 16);
    for (uint32_t at = 0, size; at < z->pages; at += size) {
        size = 1u << z->order[at];
        int is_free = z->kind[at] < KERNEL;
        for (uint32_t part = 0; part < size; part += 1u << BUDDY_BLOCK) {
            uint32_t block = (at + part) >> BUDDY_BLOCK;
            uint32_t left = size - part < 1u << BUDDY_BLOCK ? size - part : 1u << BUDDY_BLOCK;
            uint16_t *word = words + 8 * (size_t)block;
            unsigned shift = is_free ? 4 : 8, known = word[0] >> shift & 15, order = z->order[at] + 1u;
            word[0] = (uint16_t)((word[0] & ~(15u << shift)) | z->block_type[block]);
            word[0] = (uint16_t)(word[0] | (order > known ? order : known) << shift);
            word[is_free ? 1 : z->kind[at] - KERNEL + 2] += (uint16_t)left;
        }
    }
    return out;
}

/* Blocks of each order that are of this kind, and of this owner where one is given (-1: any). */
static PyObject *buddy_py_orders(PyObject *self, PyObject *args)
{
    uint64_t values[BUDDY_ORDERS] = {0};
    const struct buddy *z = zone_of(self);
    int kind, owner;
    if (!PyArg_ParseTuple(args, "ii", &kind, &owner))
        return NULL;
    for (uint32_t at = 0; at < z->pages; at += 1u << z->order[at])
        if (z->kind[at] == kind && (owner < 0 || z->owner[at] == owner))
            values[z->order[at]]++;
    return numbers(values, BUDDY_ORDERS);
}

static PyMethodDef buddy_methods[] = {
    {"take", buddy_py_take, METH_VARARGS, "take(order, kind, owner, pages, flags) -> pages got."},
    {"read", buddy_py_read, METH_VARARGS, "read(kind, owner, from, pages, order, window, flags) -> pages read."},
    {"drop", buddy_py_drop, METH_VARARGS, "drop(owner, per_mille) -> pages freed: that part of what it holds."},
    {"forget", buddy_py_forget, METH_VARARGS, "forget(kind, owner): drops its page cache."},
    {"pin", buddy_py_pin, METH_VARARGS, "pin(page, order, kind, owner) -> bool: takes exactly this block."},
    {"compact", buddy_py_compact, METH_NOARGS, "compact(): all of it, as /proc/sys/vm/compact_memory does."},
    {"map", buddy_py_map, METH_VARARGS, "map(flags, unused, used): as /proc/kpageflags has it; unused pages are held."},
    {"watermarks", buddy_py_watermarks, METH_VARARGS, "watermarks(min, low, high)."},
    {"copy", buddy_py_copy, METH_NOARGS, "copy() -> Buddy: one that goes its own way."},
    {"retype", buddy_py_retype, METH_VARARGS, "retype(block, type): of a page block that is in use as a whole."},
    {"free_counts", buddy_py_free_counts, METH_NOARGS, "free_counts() -> free blocks by type and order."},
    {"done", buddy_py_done, METH_NOARGS, "done() -> struct buddy_counts."},
    {"levels", buddy_py_levels, METH_NOARGS, "levels() -> pages free, and the three watermarks."},
    {"blocks", buddy_py_blocks, METH_NOARGS, "blocks() -> 16 bytes for each page block."},
    {"orders", buddy_py_orders, METH_VARARGS, "orders(kind, owner) -> blocks in use by order."},
    {NULL, NULL, 0, NULL},
};

static PyType_Slot buddy_slots[] = {
    {Py_tp_new, (void *)buddy_py_new},
    {Py_tp_dealloc, (void *)buddy_dealloc},
    {Py_tp_methods, buddy_methods},
    {Py_tp_doc, "Buddy(pages, seed): a zone with all of its memory free."},
    {0, NULL},
};

PyType_Spec buddy_spec = {.name = "elfolio._native.Buddy",
                          .basicsize = sizeof(BuddyObject),
                          .flags = Py_TPFLAGS_DEFAULT,
                          .slots = buddy_slots};
