# cython: language_level=3
"""PERSISTENT RESERVE IN over the helper's socket without the GIL: receive, execute on the passed descriptor, answer."""

from cpython.buffer cimport PyBUF_SIMPLE, PyObject_GetBuffer, PyBuffer_Release, Py_buffer
from cpython.bytes cimport PyBytes_FromStringAndSize
from libc.errno cimport EINTR, errno
from libc.stdint cimport uint8_t, uint32_t, uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy, memset
from posix.stat cimport S_ISBLK, S_ISCHR, fstat, struct_stat
from posix.stdlib cimport posix_memalign
from posix.unistd cimport close, pread

from _fastpath.sgio cimport SG_IN, SG_NONE, SG_SENSE_SIZE, iovec, sg_command
from _fastpath.sgio_passed cimport execute_passed

import os

cdef extern from "<sys/socket.h>" nogil:
    int SOL_SOCKET
    int SCM_RIGHTS
    int MSG_CMSG_CLOEXEC
    int MSG_NOSIGNAL

    struct msghdr:
        void *msg_name
        unsigned int msg_namelen
        iovec *msg_iov
        size_t msg_iovlen
        void *msg_control
        size_t msg_controllen
        int msg_flags

    struct cmsghdr:
        size_t cmsg_len
        int cmsg_level
        int cmsg_type

    ssize_t recvmsg(int socket, msghdr *message, int flags)
    ssize_t send(int socket, const void *data, size_t length, int flags)
    cmsghdr *CMSG_FIRSTHDR(msghdr *message)
    cmsghdr *CMSG_NXTHDR(msghdr *message, cmsghdr *header)
    unsigned char *CMSG_DATA(cmsghdr *header)
    size_t CMSG_LEN(size_t length)

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)
    uint32_t sgio_add(uint32_t *word, uint32_t value)

cdef extern from * nogil:
    """
    /* Room for two descriptors: with the second one the request is refused, and the kernel drops any further. */
    union pr_control { char bytes[CMSG_SPACE(2 * sizeof(int))]; struct cmsghdr alignment; };
    static inline uint8_t pr_load_byte(const uint8_t *byte) { return __atomic_load_n(byte, __ATOMIC_ACQUIRE); }
    """
    union pr_control:
        char bytes[1]
    uint8_t pr_load_byte(const uint8_t *byte)

cdef enum:
    PERSISTENT_RESERVE_IN = 0x5E
    COMMAND_BYTES = 10
    REPORT_CAPABILITIES = 0x02
    CAPABILITIES_BYTE = 2
    SIP_C_ATP_C = 0x0C

    CONTROL_PAGE = 4096  # the data are page-aligned, so that the kernel need not copy them; the header ends before
    OVERRUN_BYTES = 64  # the kernel's own target writes up to 32 bytes past the end of READ FULL STATUS
    BUFFER_BYTES = CONTROL_PAGE + DATA_BYTES + OVERRUN_BYTES

MAX_STRAIGHT_UNITS = STRAIGHT_UNITS


cdef int _receive(int socket, received_request *request) noexcept nogil:
    """Receive at most one CDB with its descriptors; 0, or a negative errno. Length 0 is the end of the stream."""
    cdef msghdr message
    cdef iovec vector
    cdef pr_control control
    cdef cmsghdr *header
    cdef ssize_t received
    cdef size_t count
    cdef size_t i
    cdef int descriptor
    request.length = 0
    request.descriptor_count = 0
    vector.iov_base = request.cdb
    vector.iov_len = CDB_BYTES
    while True:
        memset(&message, 0, sizeof(message))
        message.msg_iov = &vector
        message.msg_iovlen = 1
        message.msg_control = &control
        message.msg_controllen = sizeof(control)
        received = recvmsg(socket, &message, MSG_CMSG_CLOEXEC)
        if received >= 0:
            break
        if errno != EINTR:
            return -errno
    request.length = <int>received
    header = CMSG_FIRSTHDR(&message)
    while header is not NULL:
        if header.cmsg_level == SOL_SOCKET and header.cmsg_type == SCM_RIGHTS:
            count = (header.cmsg_len - CMSG_LEN(0)) // sizeof(int)
            for i in range(count):
                memcpy(&descriptor, CMSG_DATA(header) + i * sizeof(int), sizeof(int))
                if request.descriptor_count < 2:
                    request.descriptors[request.descriptor_count] = descriptor
                    request.descriptor_count += 1
                else:
                    close(descriptor)
        header = CMSG_NXTHDR(&message, header)
    return 0


cdef int _send(int socket, const uint8_t *data, size_t length) noexcept nogil:
    """Send everything; 0, or a negative errno."""
    cdef ssize_t sent
    while length > 0:
        sent = send(socket, data, length, MSG_NOSIGNAL)
        if sent < 0:
            if errno == EINTR:
                continue
            return -errno
        data += sent
        length -= <size_t>sent
    return 0


cdef inline void _put32(uint8_t *target, uint32_t value) noexcept nogil:
    target[0] = <uint8_t>(value >> 24)
    target[1] = <uint8_t>(value >> 16)
    target[2] = <uint8_t>(value >> 8)
    target[3] = <uint8_t>value


cdef class Switch:
    def forget(self):
        sgio_add(&self.epoch, 1)

    def stop(self):
        sgio_store(&self.stopping, 1)


cdef class StraightPath:
    def __cinit__(self, int socket, Switch switch not None, uint32_t timeout_ms):
        cdef void *buffer = NULL
        self.socket = socket
        self.switch = switch
        self.timeout_ms = timeout_ms
        self.epoch = sgio_load(&switch.epoch)
        self.kept = []
        if posix_memalign(&buffer, CONTROL_PAGE, BUFFER_BYTES) != 0:
            raise MemoryError
        self.buffer = <uint8_t *>buffer
        self.data.iov_base = self.buffer + CONTROL_PAGE

    def __dealloc__(self):
        free(self.buffer)

    def admit(self, uint64_t number, bint is_block, int watch, waiting not None, bint mask, owner):
        cdef Py_buffer view
        cdef straight_unit *unit
        if self.units == STRAIGHT_UNITS:
            self.forget()
        # The export may end here: ``kept`` keeps the object, and PendingAttentions never resizes it.
        PyObject_GetBuffer(waiting, &view, PyBUF_SIMPLE)
        try:
            if view.len != 1:
                raise ValueError(f"the byte that tells of waiting unit attentions has {view.len} bytes")
            unit = &self.known[self.units]
            unit.waiting = <const uint8_t *>view.buf
        finally:
            PyBuffer_Release(&view)
        unit.number = number
        unit.is_block = is_block
        unit.watch = watch
        unit.mask = mask
        self.kept.append((waiting, owner))
        self.units += 1

    def forget(self):
        self.units = 0
        self.kept.clear()

    def serve(self):
        cdef int rc
        cdef received_request *request = &self.request
        cdef sg_command *command = &self.command
        if sgio_load(&self.switch.epoch) != self.epoch:
            self.epoch = sgio_load(&self.switch.epoch)
            self.forget()
        with nogil:
            rc = self.serve_straight()
        if rc < 0:
            raise OSError(-rc, os.strerror(-rc))
        if rc == STRAIGHT_RECEIVED:
            return (
                PyBytes_FromStringAndSize(<char *>request.cdb, request.length),
                tuple([request.descriptors[i] for i in range(request.descriptor_count)]),
            )
        return (
            self.kept[self.current][1],
            PyBytes_FromStringAndSize(<char *>request.cdb, CDB_BYTES),
            (
                command.status,
                PyBytes_FromStringAndSize(<char *>command.sense, min(command.sense_length, SG_SENSE_SIZE)),
                command.host_status,
                command.driver_status,
                command.residual,
                command.error,
            ),
        )

    cdef int find_unit(self) noexcept nogil:
        """The unit a whole PERSISTENT RESERVE IN with one descriptor is for, or -1 where it may not pass straight."""
        cdef struct_stat status
        cdef uint8_t byte
        cdef bint is_block
        cdef int i
        if self.request.length != CDB_BYTES or self.request.descriptor_count != 1:
            return -1
        if self.request.cdb[0] != PERSISTENT_RESERVE_IN or self.units == 0:
            return -1
        if sgio_load(&self.switch.stopping) or sgio_load(&self.switch.epoch) != self.epoch:
            return -1
        if fstat(self.request.descriptors[0], &status) != 0:
            return -1
        is_block = S_ISBLK(status.st_mode)
        if not is_block and not S_ISCHR(status.st_mode):
            return -1
        for i in range(self.units):
            if self.known[i].number == <uint64_t>status.st_rdev and self.known[i].is_block == is_block:
                # A waiting unit attention has to be reported in the command's place.
                if pr_load_byte(self.known[i].waiting) or pread(self.known[i].watch, &byte, 1, 0) != 1:
                    return -1
                return i
        return -1

    cdef int answer(self, const straight_unit *unit, uint32_t allocation) noexcept nogil:
        """Send the data of a command that ended with GOOD; 0, or a negative errno."""
        cdef uint8_t *data = self.buffer + CONTROL_PAGE
        cdef uint8_t *header = data - HEADER_BYTES
        cdef uint32_t received = allocation
        if self.command.residual > 0:
            received -= min(<uint32_t>self.command.residual, received)
        if unit.mask and (self.request.cdb[1] & 0x1F) == REPORT_CAPABILITIES and received > CAPABILITIES_BYTE:
            data[CAPABILITIES_BYTE] &= 0xFF ^ SIP_C_ATP_C
        memset(header, 0, HEADER_BYTES)
        _put32(header + 4, received)
        return _send(self.socket, header, HEADER_BYTES + received)

    cdef int serve_straight(self) noexcept nogil:
        """Serve until something is for Python: STRAIGHT_RECEIVED, STRAIGHT_EXECUTED, or a negative errno."""
        cdef sg_command *command = &self.command
        cdef uint32_t allocation
        cdef int rc
        while True:
            rc = _receive(self.socket, &self.request)
            if rc < 0:
                return rc
            self.current = self.find_unit()
            allocation = <uint32_t>self.request.cdb[7] << 8 | self.request.cdb[8]
            if self.current < 0 or allocation > DATA_BYTES:
                return STRAIGHT_RECEIVED
            memset(self.buffer + CONTROL_PAGE, 0, allocation)  # nothing of an earlier answer may go out again
            memset(command, 0, sizeof(sg_command))
            memcpy(command.cdb, self.request.cdb, COMMAND_BYTES)
            command.cdb_length = COMMAND_BYTES
            command.timeout_ms = self.timeout_ms
            command.direction = SG_IN if allocation > 0 else SG_NONE
            command.transfer_length = allocation
            command.iovecs = &self.data
            command.iovec_count = 1
            self.data.iov_len = allocation
            execute_passed(self.request.descriptors[0], command)
            close(self.request.descriptors[0])
            if command.error != 0 or command.status != 0 or command.host_status != 0 or command.driver_status != 0:
                return STRAIGHT_EXECUTED
            self.answered += 1  # before the client can know of it, and look
            rc = self.answer(&self.known[self.current], allocation)
            if rc < 0:
                return rc
