"""The parts of CPython's C API that we use and that Cython does not declare, for all modules."""

from cpython.object cimport PyObject


cdef extern from "Python.h":
    # With manual reference counts: a buffer is filled before it becomes an object.
    PyObject *new_bytes "PyBytes_FromStringAndSize"(const char *octets, Py_ssize_t n) except NULL
    int resize_bytes "_PyBytes_Resize"(PyObject **octets, Py_ssize_t n) except -1
    char *bytes_octets "PyBytes_AS_STRING"(PyObject *octets)
    Py_ssize_t bytes_size "PyBytes_GET_SIZE"(PyObject *octets)
    char *bytearray_octets "PyByteArray_AS_STRING"(bytearray octets)
    void Py_DECREF(PyObject *value)
    Py_ssize_t Py_REFCNT(PyObject *value)
    # contexts
    object copy_context "PyContext_CopyCurrent"()
    int enter_context "PyContext_Enter"(object context) except -1
    int leave_context "PyContext_Exit"(object context) except -1
    # generators
    ctypedef enum PySendResult:
        PYGEN_RETURN
        PYGEN_ERROR
        PYGEN_NEXT
    PySendResult PyIter_Send(object coroutine, object value, PyObject **result)
