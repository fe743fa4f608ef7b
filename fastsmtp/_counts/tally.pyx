"""A block of 64-bit counters, in memory of this process or in pages that processes share.

One process writes, any number read: a cell is aligned and as wide as a register, so that a reader
never sees half of a number. `_counts.families` names the cells.
"""

cimport cython
from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, PyBuffer_Release, PyObject_GetBuffer
from libc.stdint cimport int64_t, uintptr_t

cdef enum:
    COUNT = 1536  # cells: three pages of memory; tests/project/test_metrics_table.py fills them
    TIME_BOUNDS = 16
    SIZE_BOUNDS = 9

# Upper bounds of the buckets of a histogram. One more bucket has the rest, and the cell after it
# the sum: of durations in nanoseconds.
cdef double[TIME_BOUNDS] time_bounds = [
    0.00001, 0.0001, 0.001, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0,
    60.0,
]
cdef int64_t[SIZE_BOUNDS] size_bounds = [1, 2, 4, 8, 16, 32, 64, 128, 256]

CELLS = int(COUNT)
TIMES = tuple([time_bounds[number] for number in range(TIME_BOUNDS)])
SIZES = tuple([size_bounds[number] for number in range(SIZE_BOUNDS)])


@cython.final
cdef class Tally:
    """Tally(memory=None)\n--\n\nThe counters of a server, or of a process with several.

    memory: a writable buffer of at least `Tally.SIZE` octets with zeroes or the counts of an
    earlier process, such as `mmap.mmap(-1, Tally.SIZE)` before a fork; None: of this process alone.
    Raises ValueError if it is too short, or not aligned to 8 octets.
    """

    SIZE = int(COUNT * sizeof(int64_t))

    def __cinit__(self, memory=None):
        if memory is None:
            memory = bytearray(COUNT * sizeof(int64_t) + sizeof(int64_t))
        PyObject_GetBuffer(memory, &self._view, PyBUF_SIMPLE | PyBUF_WRITABLE)
        if self._view.len < <Py_ssize_t> (COUNT * sizeof(int64_t)):
            raise ValueError(f"a tally needs {Tally.SIZE} octets, got {self._view.len}")
        if <uintptr_t> self._view.buf % sizeof(int64_t):
            raise ValueError("the memory of a tally begins at a multiple of 8 octets")
        self._cells = <int64_t *> self._view.buf

    def __dealloc__(self):
        PyBuffer_Release(&self._view)

    cpdef int add(self, Py_ssize_t cell, int64_t amount=1) except -1:
        """add(cell, amount=1)\n--\n\nAdd `amount` to a cell. Raises IndexError."""
        if not 0 <= cell < COUNT:
            raise IndexError(cell)
        self._cells[cell] += amount
        return 0

    cpdef int set(self, Py_ssize_t cell, int64_t value) except -1:
        """set(cell, value)\n--\n\nSet a cell. Raises IndexError."""
        if not 0 <= cell < COUNT:
            raise IndexError(cell)
        self._cells[cell] = value
        return 0

    cpdef int observe(self, Py_ssize_t cell, double seconds) except -1:
        """observe(cell, seconds)\n--\n\nCount a duration in the histogram that begins at `cell`.

        Raises IndexError.
        """
        cdef Py_ssize_t bucket = 0
        if not 0 <= cell < COUNT - TIME_BOUNDS - 1:
            raise IndexError(cell)
        while bucket < TIME_BOUNDS and seconds > time_bounds[bucket]:
            bucket += 1
        self._cells[cell + bucket] += 1
        if seconds > 0:
            self._cells[cell + TIME_BOUNDS + 1] += <int64_t> (seconds * 1e9)
        return 0

    cpdef int observe_size(self, Py_ssize_t cell, int64_t size) except -1:
        """observe_size(cell, size)\n--\n\nCount a number in the histogram that begins at `cell`.

        Raises IndexError.
        """
        cdef Py_ssize_t bucket = 0
        if not 0 <= cell < COUNT - SIZE_BOUNDS - 1:
            raise IndexError(cell)
        while bucket < SIZE_BOUNDS and size > size_bounds[bucket]:
            bucket += 1
        self._cells[cell + bucket] += 1
        self._cells[cell + SIZE_BOUNDS + 1] += size
        return 0

    def values(self, Py_ssize_t count=COUNT):
        """values(count=CELLS)\n--\n\nReturn the first `count` cells, as a list."""
        return [self._cells[cell] for cell in range(max(0, min(count, COUNT)))]
