# cython: language_level=3
"""Batches of SCSI commands and what the engines of sgio_sync, sgio_async and sgio_bsg share."""

from cpython.buffer cimport PyBUF_SIMPLE, PyBUF_WRITABLE, Py_buffer, PyBuffer_Release, PyObject_CheckBuffer, \
    PyObject_GetBuffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EBADF, EINVAL, ESRCH
from libc.limits cimport INT_MAX
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset
from posix.stdlib cimport posix_memalign

import os

cdef extern from "sgio_atomic.h" nogil:
    unsigned int sgio_fork_generation()
    int sgio_watch_forks()

DIRECTION_NONE = SG_NONE
DIRECTION_IN = SG_IN
DIRECTION_OUT = SG_OUT
MAX_CDB_LENGTH = SG_CDB_SIZE
MAX_TRANSFER = SG_MAX_TRANSFER
SENSE_SIZE = SG_SENSE_SIZE
DEFAULT_TIMEOUT_MS = 60_000

cdef uint32_t _DEFAULT_TIMEOUT_MS = 60_000
# The kernel turns milliseconds into jiffies held in an int; beyond this a day-long FORMAT UNIT would wrap to the past.
cdef uint32_t _MAX_TIMEOUT_MS = 0x7FFFFFFF
cdef size_t _MAX_BOUNCE = 64 << 20  # beyond what any host takes; bounds what a guest can make us allocate
cdef size_t _KEPT_BOUNCE = 1 << 20


cdef int check_command(const sg_command *command) noexcept nogil:
    """0, or -EINVAL for a command no engine may hand to the kernel."""
    if command.cdb_length < 6 or command.cdb_length > SG_CDB_SIZE:
        return -EINVAL
    if command.transfer_length > SG_MAX_TRANSFER or command.timeout_ms == 0:
        return -EINVAL
    if command.direction > SG_OUT:
        return -EINVAL
    if command.direction == SG_NONE and command.transfer_length != 0:
        return -EINVAL
    return 0


cdef void clear_result(sg_command *command) noexcept nogil:
    command.error = 0
    command.fate = SG_FATE_DONE
    command.status = 0
    command.sense_length = 0
    command.host_status = 0
    command.driver_status = 0
    command.residual = 0
    command.duration_ms = 0


cdef void fail_command(sg_command *command, int error, uint8_t fate) noexcept nogil:
    """Record that no result of the command can be had; ``error`` is a positive errno."""
    clear_result(command)
    command.error = error
    command.fate = fate
    command.residual = <int>command.transfer_length


cdef void fail_all(sg_command *commands, const int *indices, int n, int error) noexcept nogil:
    cdef int i
    for i in range(n):
        fail_command(&commands[i if indices is NULL else indices[i]], error, SG_FATE_NOT_EXECUTED)


cdef size_t gather(const sg_command *command, void *target) noexcept nogil:
    """Copy the command's buffers into ``target``, which holds transfer_length bytes; returns the bytes copied."""
    cdef size_t done = 0
    cdef size_t part
    cdef uint32_t i
    for i in range(command.iovec_count):
        part = min(command.iovecs[i].iov_len, command.transfer_length - done)
        memcpy(<char *>target + done, command.iovecs[i].iov_base, part)
        done += part
    return done


cdef void scatter(const sg_command *command, const void *source, size_t length) noexcept nogil:
    """Copy the first ``length`` bytes of ``source`` into the command's buffers."""
    cdef size_t done = 0
    cdef size_t part
    cdef uint32_t i
    for i in range(command.iovec_count):
        part = min(command.iovecs[i].iov_len, length - done)
        if part == 0:
            return
        memcpy(command.iovecs[i].iov_base, <const char *>source + done, part)
        done += part


cdef void *bounce_take(sg_bounce *bounce, size_t length) noexcept nogil:
    """At least ``length`` page-aligned bytes, or NULL where there is no memory or the transfer is absurd."""
    cdef void *data = NULL
    if length <= bounce.size:
        return bounce.data
    if length > _MAX_BOUNCE:
        return NULL
    bounce_free(bounce)
    length = (length + 4095) & ~<size_t>4095
    if posix_memalign(&data, 4096, length) != 0:
        return NULL
    bounce.data = data
    bounce.size = length
    return data


cdef void bounce_settle(sg_bounce *bounce) noexcept nogil:
    """Give back a buffer that a rare large transfer made grow."""
    if bounce.size > _KEPT_BOUNCE:
        bounce_free(bounce)


cdef void bounce_free(sg_bounce *bounce) noexcept nogil:
    free(bounce.data)
    bounce.data = NULL
    bounce.size = 0


cdef unsigned int fork_generation() noexcept nogil:
    """How many forks lie between this process and the one that imported the module."""
    return sgio_fork_generation()


cdef class Batch:
    def __cinit__(self, int capacity):
        if capacity < 1 or capacity > INT_MAX // <int>sizeof(sg_command):
            raise ValueError(f"batch capacity {capacity} is not between 1 and {INT_MAX // sizeof(sg_command)}")
        self.capacity = capacity
        self.commands = <sg_command *>calloc(capacity, sizeof(sg_command))
        self.held = <held_buffers *>calloc(capacity, sizeof(held_buffers))
        if self.commands is NULL or self.held is NULL:
            raise MemoryError

    def __dealloc__(self):
        cdef int i
        if self.held is not NULL:
            for i in range(self.capacity):
                _release(&self.held[i])
                free(self.held[i].views)
                free(self.held[i].iovecs)
            free(self.held)
        free(self.commands)

    def __len__(self):
        return self.count

    cdef int begin(self) except -1:
        if self.running:
            raise RuntimeError("the batch is already running in another thread; give every thread its own batch")
        self.running = True
        return 0

    cdef void end(self) noexcept:
        self.running = False

    def add(self, cdb not None, int direction=SG_NONE, buffers=(), timeout_ms=0):
        cdef sg_command *command
        cdef held_buffers *held
        cdef Py_buffer view
        cdef uint32_t timeout
        if self.running:
            raise RuntimeError("the batch is running and cannot take a command; wait for run() to return")
        if self.count == self.capacity:
            raise IndexError(f"the batch already holds its {self.capacity} commands; run and clear it first")
        if direction not in (SG_NONE, SG_IN, SG_OUT):
            raise ValueError(f"direction {direction} is none of DIRECTION_NONE, DIRECTION_IN and DIRECTION_OUT")
        if not 0 <= timeout_ms <= _MAX_TIMEOUT_MS:
            raise ValueError(f"timeout {timeout_ms} ms is not between 0 and {_MAX_TIMEOUT_MS}")
        timeout = timeout_ms
        command = &self.commands[self.count]
        held = &self.held[self.count]
        memset(command, 0, sizeof(sg_command))
        PyObject_GetBuffer(cdb, &view, PyBUF_SIMPLE)
        try:
            if not 6 <= view.len <= SG_CDB_SIZE:
                raise ValueError(f"a CDB has 6 to {SG_CDB_SIZE} bytes, this one has {view.len}")
            memcpy(command.cdb, view.buf, view.len)
            command.cdb_length = <uint8_t>view.len
        finally:
            PyBuffer_Release(&view)
        command.direction = <uint8_t>direction
        command.timeout_ms = timeout if timeout != 0 else _DEFAULT_TIMEOUT_MS
        try:
            _hold(held, command, (buffers,) if PyObject_CheckBuffer(buffers) else tuple(buffers))
        except BaseException:
            _release(held)
            raise
        # Until run, a result says that nothing was executed.
        fail_command(command, EINVAL, SG_FATE_NOT_EXECUTED)
        self.count += 1
        return self.count - 1

    def result(self, int index):
        cdef sg_command *command = self._at(index)
        return (
            command.status,
            PyBytes_FromStringAndSize(<char *>command.sense, min(command.sense_length, SG_SENSE_SIZE)),
            command.host_status,
            command.driver_status,
            command.residual,
            command.duration_ms,
            command.error,
        )

    def fate_unknown(self, int index):
        return self._at(index).fate == SG_FATE_UNKNOWN

    def clear(self):
        cdef int i
        if self.running:
            raise RuntimeError("the batch is running and cannot be cleared; wait for run() to return")
        for i in range(self.count):
            _release(&self.held[i])
        self.count = 0

    cdef sg_command *_at(self, int index) except NULL:
        if index < 0 or index >= self.count:
            raise IndexError(f"the batch holds {self.count} commands, there is no number {index}")
        if self.running:
            raise RuntimeError("the batch is running and has no results yet; wait for run() to return")
        return &self.commands[index]


cdef int _hold(held_buffers *held, sg_command *command, tuple buffers) except -1:
    """Export the buffers and build the iovecs; empty buffers are dropped."""
    cdef uint32_t needed = <uint32_t>len(buffers)
    cdef size_t total = 0
    cdef uint32_t used = 0
    cdef int flags = PyBUF_WRITABLE if command.direction == SG_IN else PyBUF_SIMPLE
    cdef void *grown
    if needed > held.capacity:
        grown = realloc(held.views, needed * sizeof(Py_buffer))
        if grown is NULL:
            raise MemoryError
        held.views = <Py_buffer *>grown
        grown = realloc(held.iovecs, needed * sizeof(iovec))
        if grown is NULL:
            raise MemoryError
        held.iovecs = <iovec *>grown
        held.capacity = needed
    for buffer in buffers:
        PyObject_GetBuffer(buffer, &held.views[held.count], flags)
        held.count += 1
        if held.views[held.count - 1].len == 0:
            continue
        held.iovecs[used].iov_base = held.views[held.count - 1].buf
        held.iovecs[used].iov_len = held.views[held.count - 1].len
        total += held.iovecs[used].iov_len
        used += 1
        if total > SG_MAX_TRANSFER:
            raise ValueError(f"the buffers hold more than {SG_MAX_TRANSFER} bytes, the most one command may transfer")
    if total and command.direction == SG_NONE:
        raise ValueError(f"a command without data direction was given {total} bytes of buffers")
    command.iovecs = held.iovecs
    command.iovec_count = used
    command.transfer_length = <uint32_t>total
    return 0


cdef void _release(held_buffers *held) noexcept:
    cdef uint32_t i
    for i in range(held.count):
        PyBuffer_Release(&held.views[i])
    held.count = 0


cdef class Engine:
    cdef int submit(self, sg_command *commands, const int *indices, int n) noexcept nogil:
        fail_all(commands, indices, n, EBADF)
        return -EBADF

    def run(self, Batch batch not None):
        cdef int rc = 0
        if batch.count == 0:
            return
        batch.begin()
        try:
            with nogil:
                rc = self.submit(batch.commands, NULL, batch.count)
        finally:
            batch.end()
        if rc < 0:
            raise_engine_error(rc, self.label)

    def close(self):
        """Overridden by every engine."""

    def __enter__(self):
        return self

    def __exit__(self, *exception):
        self.close()


cdef int raise_engine_error(int rc, str label) except -1:
    """Turn the negative errno of a submit or an open into the exception that explains it."""
    if rc == -EBADF:
        raise ValueError(f"{label}: the engine is closed; open the device again")
    if rc == -ESRCH:
        raise RuntimeError(f"{label}: opened before a fork; open the device again in this process")
    raise OSError(-rc, f"{label}: {os.strerror(-rc)}")


if sgio_watch_forks() != 0:
    raise MemoryError("no memory to watch for forks")
