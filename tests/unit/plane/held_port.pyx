# cython: language_level=3
"""A port that a test completes by hand, command by command."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from _fastpath.port cimport Port
from _fastpath.sgio cimport SG_IN, clear_result, fail_command, scatter, sg_command

import os

cdef extern from "<poll.h>" nogil:
    enum:
        POLLIN

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)

cdef extern from "plane_atomic.h" nogil:
    bint plane_signal(int descriptor)
    bint plane_clear(int descriptor)


cdef class HeldPort(Port):
    cdef sg_command *started[1024]
    cdef sg_command *finished[1024]
    cdef uint32_t started_count
    cdef uint32_t finished_count
    cdef uint32_t reaped
    cdef uint32_t room
    cdef uint32_t dead
    cdef int bell

    def __cinit__(self, uint32_t room=1024):
        self.room = room
        self.bell = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def __dealloc__(self):
        close(self.bell)

    cdef int start(self, sg_command **commands, int n) noexcept nogil:
        cdef int accepted = 0
        if sgio_load(&self.dead):
            return -<int>self.dead
        while accepted < n and self.started_count - self.reaped < self.room:
            self.started[self.started_count] = commands[accepted]
            sgio_store(&self.started_count, self.started_count + 1)
            accepted += 1
        return accepted

    cdef int reap(self, sg_command **done, int room) noexcept nogil:
        cdef int count = 0
        plane_clear(self.bell)
        while self.reaped < sgio_load(&self.finished_count) and count < room:
            done[count] = self.finished[self.reaped]
            count += 1
            self.reaped += 1
        return count

    cdef int watch(self, int *descriptor, short *events) noexcept nogil:
        descriptor[0] = self.bell
        events[0] = POLLIN
        return -1

    @property
    def count(self):
        """Commands started so far."""
        return sgio_load(&self.started_count)

    def command(self, int number):
        """(CDB, direction, data out, transfer length, iovecs, tag, timeout) of a started command."""
        cdef sg_command *one = self.started[number]
        data = b""
        for i in range(one.iovec_count):
            if one.direction != SG_IN:
                data += (<char *>one.iovecs[i].iov_base)[:one.iovecs[i].iov_len]
        return ((<char *>one.cdb)[:one.cdb_length], one.direction, data, one.transfer_length, one.iovec_count, one.tag,
                one.timeout_ms)

    def finish(self, int number, *, int status=0, bytes sense=b"", int host_status=0, int residual=0, bytes data=b"",
               int error=0, int fate=0):
        """Complete a started command."""
        cdef sg_command *one = self.started[number]
        clear_result(one)
        if error:
            fail_command(one, error, <uint8_t>fate)
        else:
            one.status = <uint8_t>status
            one.host_status = <unsigned short>host_status
            one.residual = residual
            one.sense_length = <uint8_t>len(sense)
            memcpy(one.sense, <const char *>sense, len(sense))
            if data:
                scatter(one, <const char *>data, len(data))
        self.finished[self.finished_count] = one
        sgio_store(&self.finished_count, self.finished_count + 1)
        plane_signal(self.bell)

    def let_go(self):
        """Complete whatever is left and refuse the rest, so that a test that failed can end."""
        self.die(19)
        cdef uint32_t n
        cdef uint32_t m
        cdef bint known
        for n in range(sgio_load(&self.started_count)):
            known = False
            for m in range(self.finished_count):
                known |= self.finished[m] == self.started[n]
            if not known:
                self.finish(n)

    def die(self, uint32_t error):
        """Take no commands any more."""
        sgio_store(&self.dead, error)
