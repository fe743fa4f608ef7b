cdef class Reply:
    cdef readonly int code, slot
    cdef readonly object enhanced_code
    cdef readonly str text
    cdef readonly bytes wire, plain
