"""Commits messages into a Maildir: all system calls for a batch in one call.

In: descriptors of `tmp` and `new`, and drafts: a name, octets, or a file that was begun already.
Out: each draft has its result, a step and an errno; nothing raises half-way, and a failed draft
leaves no name. The GIL is released once, whatever the number of drafts.

The order of calls is the promise: write to `tmp`, sync the files, link them into `new`, sync `new`
once for all of them, and only then remove the names in `tmp`. A failed fsync is not repeated: the
kernel may have dropped the dirty pages, and a second one would report success.

Files have LF where the wire had CRLF, however the pieces are cut; a CR without an LF stays.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_GET_SIZE
from libc.errno cimport (
    EEXIST,
    EINTR,
    ENOENT,
    ENOSYS,
    EOPNOTSUPP,
    EPERM,
    errno,
)
from libc.stdio cimport snprintf
from libc.stdlib cimport free, malloc
from libc.string cimport memchr, memcpy
from posix.fcntl cimport O_CREAT, O_EXCL, O_RDONLY, O_WRONLY
from posix.stat cimport fstat, struct_stat
from posix.time cimport CLOCK_MONOTONIC, clock_gettime, timespec
from posix.unistd cimport close, fsync, write

import enum


cdef extern from *:
    """
    #include <errno.h>
    #include <fcntl.h>
    #include <stdio.h>
    #include <sys/file.h>
    #include <sys/stat.h>
    #include <unistd.h>
    #if defined(__linux__) && defined(_GNU_SOURCE)
    #define FS_HAVE_SYNCFS 1
    #define FS_START_WRITING(descriptor) sync_file_range(descriptor, 0, 0, SYNC_FILE_RANGE_WRITE)
    #else
    #define FS_HAVE_SYNCFS 0
    #define FS_START_WRITING(descriptor) ((void)0)
    #define syncfs(descriptor) (-1)
    #endif
    """
    const bint FS_HAVE_SYNCFS
    void FS_START_WRITING(int descriptor) nogil
    const int ENOTSUP
    const int EWOULDBLOCK
    const int AT_SYMLINK_NOFOLLOW
    const int LOCK_EX
    const int LOCK_NB
    const int O_CLOEXEC
    const int O_DIRECTORY
    int flock(int descriptor, int operation) nogil
    int fstatat(int directory, const char *name, struct_stat *facts, int flags) nogil
    int linkat(int old, const char *name, int new, const char *new_name, int flags) nogil
    int openat(int directory, const char *name, int flags, int mode) nogil
    int renameat(int old, const char *name, int new, const char *new_name) nogil
    int syncfs(int descriptor) nogil
    int unlinkat(int directory, const char *name, int flags) nogil


cdef enum:
    NAME_ATTEMPTS = 5  # names have 64 random bits: even a second attempt is very unlikely
    MAX_NAME = 200  # octets of a given name
    NAME_ROOM = MAX_NAME + 4  # with the suffix of a further attempt, and NUL
    BUFFER = 65536  # octets of one write

cdef enum:
    AT_CREATE = 1
    AT_WRITE = 2
    AT_SYNC = 3
    AT_LINK = 4
    AT_SYNC_DIRECTORY = 5

HAS_SYNCFS = bool(FS_HAVE_SYNCFS)


class Step(enum.IntEnum):
    """The step at which a commit has failed; DONE: it has not failed."""

    DONE = 0
    CREATE = AT_CREATE
    WRITE = AT_WRITE
    SYNC = AT_SYNC
    LINK = AT_LINK
    SYNC_DIRECTORY = AT_SYNC_DIRECTORY


cdef struct Work:
    int tmp
    int new
    # The same directories, opened for this batch alone: the kernel reports an error of writing once
    # for each open file, and another thread must not get that of our data.
    int synced_tmp
    int synced_new
    char *buffer
    size_t used  # octets in the buffer, all of the file that is being written
    double seconds  # that the sync of the files took


cdef struct File:
    const char *given  # the name
    const char *head
    size_t head_length
    const char *body
    size_t body_length
    bint is_written  # head and body are in the file already
    bint is_older  # than the batch: an error of its data may have been before `synced_tmp`
    char temporary[NAME_ROOM]  # the name in tmp
    char final[NAME_ROOM]  # the name in new
    bint in_tmp
    bint in_new
    bint ended
    bint has_held  # the last piece ended with a CR, whose LF may follow
    bint is_open  # `descriptor` is valid: it is 0 in an object that was never initialised
    int descriptor
    int step
    int error
    int stays  # why a name could not be removed, an errno


# The functions that return bint return whether the file can continue.

cdef bint fail(File *file, const Work *work, int step, int error) noexcept nogil:
    file.step = step
    file.error = error
    end(file, work)
    return False


cdef void end(File *file, const Work *work) noexcept nogil:
    """Remove the names that must not stay, then close: the lock outlives the name in tmp."""
    if file.step != 0 and file.in_new:
        remove_name(file, work.new, file.final)
    if file.in_tmp:
        remove_name(file, work.tmp, file.temporary)
        file.in_tmp = False
    if file.is_open:
        # After an fsync, close has nothing to report; without one, the file is not used.
        close(file.descriptor)
        file.is_open = False
    file.ended = True


cdef void remove_name(File *file, int directory, const char *name) noexcept nogil:
    if unlinkat(directory, name, 0) != 0 and errno != ENOENT:
        file.stays = errno


cdef void set_name(char *name, const char *given, int attempt) noexcept nogil:
    if attempt == 0:
        snprintf(name, NAME_ROOM, b"%s", given)
    else:
        snprintf(name, NAME_ROOM, b"%s-%d", given, attempt)


cdef bint create(File *file, const Work *work) noexcept nogil:
    cdef int attempt
    for attempt in range(NAME_ATTEMPTS):
        set_name(file.temporary, file.given, attempt)
        # O_EXCL: never into an existing file, or through a link, of another program.
        file.descriptor = openat(
            work.tmp, file.temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0o600
        )
        if file.descriptor < 0:
            if errno == EEXIST:
                continue
            return fail(file, work, AT_CREATE, errno)
        if is_ours(file.descriptor):
            file.in_tmp = True
            file.is_open = True
            return True
        close(file.descriptor)
    return fail(file, work, AT_CREATE, EEXIST)


cdef bint is_ours(int descriptor) noexcept nogil:
    """Lock the new file; False if the clean-up of another process has locked it before us, which
    then removes it.
    """
    cdef struct_stat facts
    if flock(descriptor, LOCK_EX | LOCK_NB) != 0:
        return errno != EWOULDBLOCK  # no locks on this file system: clean-ups use the age
    return fstat(descriptor, &facts) != 0 or facts.st_nlink == 1


cdef bint put(File *file, Work *work, const char *octets, size_t length) noexcept nogil:
    """Add octets from the wire to the file, with LF for CRLF."""
    cdef const char *stop = octets + length
    cdef const char *cr
    cdef const char *upto
    if length and file.has_held:
        file.has_held = False
        if octets[0] != c"\n" and not copy(file, work, b"\r", 1):
            return False
    while octets < stop:
        cr = <const char *>memchr(octets, c"\r", stop - octets)
        upto = stop if cr == NULL else cr
        if cr != NULL and cr + 1 < stop and cr[1] != c"\n":
            upto = cr + 1  # a CR that stays
            cr = NULL
        if not copy(file, work, octets, upto - octets):
            return False
        octets = upto
        if cr != NULL:
            octets += 1
            file.has_held = octets == stop
    return True


cdef bint copy(File *file, Work *work, const char *octets, size_t length) noexcept nogil:
    """Add octets to the buffer, and write it whenever it is full."""
    cdef size_t part
    while length:
        part = min(length, BUFFER - work.used)
        memcpy(work.buffer + work.used, octets, part)
        work.used += part
        octets += part
        length -= part
        if work.used == BUFFER and not flush(file, work):
            return False
    return True


cdef bint flush(File *file, Work *work) noexcept nogil:
    cdef size_t done = 0
    cdef ssize_t taken
    while done < work.used:  # the kernel may write a part: a signal, or the last free block
        taken = write(file.descriptor, work.buffer + done, work.used - done)
        if taken >= 0:
            done += taken
        elif errno != EINTR:
            work.used = 0
            return fail(file, work, AT_WRITE, errno)
    work.used = 0
    return True


cdef bint finish(File *file, Work *work) noexcept nogil:
    """Write the rest."""
    if file.has_held:
        file.has_held = False
        if not copy(file, work, b"\r", 1):
            return False
    return flush(file, work)


cdef bint publish(File *file, const Work *work) noexcept nogil:
    cdef int attempt, error
    for attempt in range(NAME_ATTEMPTS):
        set_name(file.final, file.given, attempt)
        error = give_name(file, work)
        # NFS may report EEXIST for our own link, if the answer to the first try was lost.
        if error == 0 or error == EEXIST and is_same_file(file, work):
            file.in_new = True
            return True
        if error != EEXIST:
            return fail(file, work, AT_LINK, error)
    return fail(file, work, AT_LINK, EEXIST)


cdef int give_name(File *file, const Work *work) noexcept nogil:
    """Return 0 or an errno. Not rename(): link() never replaces an existing file."""
    cdef struct_stat facts
    if linkat(work.tmp, file.temporary, work.new, file.final, 0) == 0:
        return 0
    # The error numbers of a file system without hard links; Linux uses EPERM.
    if errno != EPERM and errno != ENOTSUP and errno != EOPNOTSUPP and errno != ENOSYS:
        return errno
    if fstatat(work.new, file.final, &facts, AT_SYMLINK_NOFOLLOW) == 0:
        return EEXIST
    if renameat(work.tmp, file.temporary, work.new, file.final) != 0:
        return errno
    file.in_tmp = False
    return 0


cdef bint is_same_file(File *file, const Work *work) noexcept nogil:
    cdef struct_stat ours, found
    return (
        fstat(file.descriptor, &ours) == 0
        and fstatat(work.new, file.final, &found, AT_SYMLINK_NOFOLLOW) == 0
        and ours.st_dev == found.st_dev
        and ours.st_ino == found.st_ino
    )


cdef bint begin(File *file, Work *work) noexcept nogil:
    """Make the file and write the draft's octets, unless that was done already."""
    if file.is_written:
        return True
    file.is_written = True
    return (
        create(file, work)
        and put(file, work, file.head, file.head_length)
        and put(file, work, file.body, file.body_length)
    )


cdef double monotonic() noexcept nogil:
    cdef timespec moment
    clock_gettime(CLOCK_MONOTONIC, &moment)
    return moment.tv_sec + moment.tv_nsec * 1e-9


cdef void commit_all(File **files, int count, Work *work, bint sync_all) noexcept nogil:
    cdef int number, error
    cdef int published = 0
    cdef double began
    work.seconds = 0
    error = open_directories(work)
    if error:
        for number in range(count):
            fail(files[number], work, AT_CREATE, error)
        return
    for number in range(count):
        files[number].is_older = files[number].is_written
        if begin(files[number], work):
            finish(files[number], work)
    began = monotonic()
    if sync(files, count, work, sync_all):
        work.seconds = monotonic() - began
    for number in range(count):
        if not files[number].ended and publish(files[number], work):
            published += 1
    error = errno if published and fsync(work.synced_new) != 0 else 0
    close_directories(work)
    for number in range(count):
        if not files[number].ended:
            if error:
                fail(files[number], work, AT_SYNC_DIRECTORY, error)
            else:
                # The message is safe; a later failure causes a leftover at most.
                end(files[number], work)


cdef int open_directories(Work *work) noexcept nogil:
    """Return 0 or an errno."""
    cdef int flags = O_RDONLY | O_DIRECTORY | O_CLOEXEC
    cdef int error
    work.synced_tmp = openat(work.tmp, b".", flags, 0)
    if work.synced_tmp < 0:
        return errno
    work.synced_new = openat(work.new, b".", flags, 0)
    if work.synced_new < 0:
        error = errno
        close(work.synced_tmp)
        return error
    return 0


cdef void close_directories(const Work *work) noexcept nogil:
    close(work.synced_tmp)
    close(work.synced_new)


cdef bint sync(File **files, int count, const Work *work, bint sync_all) noexcept nogil:
    """Return whether a file was synced."""
    cdef int number
    cdef bint is_synced = False
    cdef int error = errno if sync_all and syncfs(work.synced_tmp) != 0 else 0
    if not sync_all and count > 1:
        # A hint: blocks are allocated for all files, and the first fsync commits this for all.
        for number in range(count):
            if not files[number].ended:
                FS_START_WRITING(files[number].descriptor)
    for number in range(count):
        if files[number].ended:
            continue
        if sync_all and error:
            fail(files[number], work, AT_SYNC, error)
        elif (not sync_all or files[number].is_older) and fsync(files[number].descriptor) != 0:
            fail(files[number], work, AT_SYNC, errno)
        else:
            is_synced = True
    return is_synced


cdef class Place:
    """Place(tmp, new)\n--\n\nThe directories of a Maildir: descriptors, closed at its end."""

    cdef int tmp
    cdef int new
    cdef bint is_open

    def __cinit__(self, int tmp, int new):
        self.tmp = tmp
        self.new = new
        self.is_open = True

    def __dealloc__(self):
        if self.is_open:
            close(self.tmp)
            close(self.new)


cdef class Draft:
    """Draft(place, name, head, body)\n--\n\nOne message on its way into a Maildir.

    name: a file name, at most 200 octets. head, body: octets, written one after the other; what
    `write` adds comes after them. Nothing is on disk before `write` or `commit`. A draft without
    references is discarded.
    """

    cdef File file
    cdef readonly Place place  # None after the end
    cdef readonly bytes name
    cdef bytes head
    cdef bytes body
    cdef bint is_taken  # a call is working on it

    def __cinit__(
        self,
        Place place not None,
        bytes name not None,
        bytes head not None,
        bytes body not None,
    ):
        if not 0 < len(name) <= MAX_NAME or b"/" in name or b"\0" in name:
            raise ValueError(f"not a name for a file: {name!r:.40}")
        self.place = place
        self.name = name
        self.head = head
        self.body = body
        self.file.given = PyBytes_AS_STRING(name)
        self.file.head = PyBytes_AS_STRING(head)
        self.file.head_length = PyBytes_GET_SIZE(head)
        self.file.body = PyBytes_AS_STRING(body)
        self.file.body_length = PyBytes_GET_SIZE(body)

    def __dealloc__(self):
        cdef Work work
        if self.file.is_open:
            work.tmp = self.place.tmp
            end(&self.file, &work)

    cdef bint is_over(self):
        return self.file.ended or self.is_taken

    @property
    def ended(self):
        """Whether it was committed or discarded, or has failed."""
        return bool(self.file.ended)

    @property
    def step(self):
        """The step at which it has failed; DONE while it has not."""
        return Step(self.file.step)

    @property
    def error(self):
        """The errno of its failure; 0 while it has not failed."""
        return self.file.error

    @property
    def stays(self):
        """The errno if a name in `tmp` or `new` could not be removed, else 0."""
        return self.file.stays

    @property
    def temporary(self):
        """The name in `tmp`, empty without one."""
        return <bytes>self.file.temporary if self.file.in_tmp else b""

    @property
    def final(self):
        """The name in `new`, empty without one."""
        return <bytes>self.file.final if self.file.in_new and not self.file.step else b""

    def write(self, bytes octets not None):
        """write(octets)\n--\n\nAdd octets to the file, which is made first.

        Returns False after a failure: `step` and `error` describe it, and no file remains. Raises
        RuntimeError after the end.
        """
        cdef Work work
        cdef bint is_good
        cdef const char *start = PyBytes_AS_STRING(octets)
        cdef size_t length = PyBytes_GET_SIZE(octets)
        if self.is_over():
            raise RuntimeError("the draft has ended, or is at work")
        prepare(&work, self.place)
        self.is_taken = True
        with nogil:
            is_good = (
                begin(&self.file, &work)
                and put(&self.file, &work, start, length)
                and flush(&self.file, &work)
            )
            free(work.buffer)
        self.is_taken = False
        forget_place(self)
        return is_good

    def discard(self):
        """discard()\n--\n\nRemove the file in `tmp`; a no-op from `commit` on."""
        cdef Work work
        if not self.is_over():
            self.is_taken = True
            work.tmp = self.place.tmp
            with nogil:
                end(&self.file, &work)
            forget_place(self)


cdef int forget_place(Draft draft) except -1:
    """Do not keep directories open for a draft that has ended."""
    if draft.file.ended:
        draft.place = None
    return 0


cdef int prepare(Work *work, Place place) except -1:
    work.tmp = place.tmp
    work.new = place.new
    work.used = 0
    work.buffer = <char *>malloc(BUFFER)
    if work.buffer == NULL:
        raise MemoryError
    return 0


def commit(Place place not None, list drafts not None, bint sync_all):
    """commit(place, drafts, sync_all)\n--\n\nMake drafts durable and visible, or leave nothing.

    sync_all: by one `syncfs` of the file system instead of an fsync for each file. Afterwards each
    draft has `final`, or `step` and `error`; one that had ended before, or is at work in another
    thread, is left alone. Returns the seconds that the sync of the files took, 0 if none was
    synced. Raises ValueError for a draft of another place, and then touches none.
    """
    cdef Work work
    cdef Draft draft
    cdef list kept = [each for each in drafts if not (<Draft?>each).is_over()]
    cdef int count = 0
    if sync_all and not FS_HAVE_SYNCFS:
        raise ValueError("this system has no syncfs")
    for draft in kept:
        if draft.place is not place:
            raise ValueError("the draft belongs to another place")
    prepare(&work, place)
    cdef File **files = <File **>malloc((len(kept) + 1) * sizeof(File *))
    if files == NULL:
        free(work.buffer)
        raise MemoryError
    for draft in kept:
        draft.is_taken = True
        files[count] = &draft.file
        count += 1
    with nogil:
        commit_all(files, count, &work, sync_all)
        free(work.buffer)
        free(files)
    for draft in kept:
        forget_place(draft)
    return work.seconds
