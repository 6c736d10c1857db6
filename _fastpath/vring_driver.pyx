# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""The driver side of virtio-scsi virtqueues in memory that is shared with a controller: for tests and measurements.

Each slot of a queue has its own descriptors, request header, response and data buffer, so that a command is a matter
of a few stores and the device under test is what takes the time.
"""

from libc.errno cimport EIO, errno
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset
from posix.unistd cimport close

from _fastpath.controller cimport Controller
from _fastpath.virtqueue cimport DESCRIPTOR_INDIRECT, DESCRIPTOR_NEXT, DESCRIPTOR_WRITE, NO_NOTIFICATION, \
    vring_descriptor
from _fastpath.virtio_scsi cimport REQUEST_BYTES, RESPONSE_BYTES

from _fastpath.worker cimport worker_pass
from _fastpath.worker_state cimport worker

import os
import select

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t length)
    void *MAP_FAILED
    int PROT_READ, PROT_WRITE, MAP_SHARED

cdef extern from "<errno.h>" nogil:
    enum:
        EBADMSG, ETIMEDOUT

cdef extern from "<endian.h>" nogil:
    uint32_t htobe32(uint32_t value)
    uint64_t htobe64(uint64_t value)

cdef extern from "sgio_atomic.h" nogil:
    void sgio_pause()

cdef extern from "plane_atomic.h" nogil:
    uint16_t plane_load16(const void *word)
    uint16_t plane_load16_acquire(const void *word)
    uint64_t plane_load64(const void *word)
    void plane_store16(void *word, uint16_t value)
    void plane_store16_release(void *word, uint16_t value)
    void plane_fence()
    bint plane_signal(int descriptor)
    uint64_t plane_now_ns()

cdef enum:
    AREA_BYTES = 256  # of a slot: indirect table, request header, response
    AREA_HEADER = 64
    AREA_RESPONSE = 128
    REFILL = 16  # completions after which a measurement sends new commands
    CDB_AT = 19
    PATIENCE_NS = 60_000_000_000  # without any completion, after which a measurement fails


cdef class DriverMemory:
    def __cinit__(self, uint64_t size, *, uint64_t guest=0x1_0000_0000, uint64_t user=0x7000_0000_0000):
        cdef void *mapped
        self.descriptor = os.memfd_create("driver-memory", os.MFD_CLOEXEC)
        os.ftruncate(self.descriptor, size)
        mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, self.descriptor, 0)
        if mapped == MAP_FAILED:
            raise OSError(errno, os.strerror(errno))
        self.base = <uint8_t *>mapped
        self.size = size
        self.guest = guest
        self.user = user

    def __dealloc__(self):
        if self.base is not NULL:
            munmap(self.base, self.size)
        if self.descriptor > 0:
            close(self.descriptor)

    cdef uint64_t take(self, uint64_t length, uint64_t alignment) except? 0:
        cdef uint64_t at = (self.taken + alignment - 1) & ~(alignment - 1)
        if at + length > self.size:
            raise MemoryError(f"{length} bytes do not fit {self.size} bytes of guest memory")
        self.taken = at + length
        return self.guest + at

    def region(self):
        """What GuestMemory takes."""
        return self.guest, self.size, self.user, self.descriptor, 0

    def user_address(self, uint64_t address):
        """The front end's address of a guest address."""
        return self.user + address - self.guest

    def view(self):
        """The whole memory, writable."""
        return memoryview(<uint8_t[:self.size]>self.base)


cdef class DriverQueue:
    def __cinit__(self, DriverMemory memory not None, int size=128, *, uint32_t data_size=4096, bint event_index=False,
                  bint indirect=True):
        cdef int descriptors = 1 if indirect else 4
        if size < descriptors or size & (size - 1):
            raise ValueError(f"a queue of {size} descriptors has no room for a command")
        self.kick = self.call = -1
        self.memory = memory
        self.size = size
        self.stride = descriptors
        self.slots = size // descriptors
        self.event_index = event_index
        self.indirect = indirect
        self.data_size = data_size
        self.descriptors = memory.take(16 * size, 4096)
        self.available = memory.take(6 + 2 * size, 4096)
        self.used = memory.take(6 + 8 * size, 4096)
        self.areas = memory.take(<uint64_t>AREA_BYTES * self.slots, 4096)
        self.data = memory.take(<uint64_t>data_size * self.slots, 4096)
        self.states = <slot_state *>calloc(self.slots, sizeof(slot_state))
        self.free_stack = <int *>calloc(self.slots, sizeof(int))
        if self.states is NULL or self.free_stack is NULL:
            raise MemoryError
        self.random = 0x9E3779B97F4A7C15
        self.kick = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.call = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        self.silent(True)

    def __dealloc__(self):
        free(self.states)
        free(self.free_stack)
        if self.kick >= 0:
            close(self.kick)
        if self.call >= 0:
            close(self.call)

    cdef uint8_t *at(self, uint64_t address) noexcept nogil:
        return self.memory.base + (address - self.memory.guest)

    cdef uint8_t *area(self, int slot) noexcept nogil:
        return self.at(self.areas) + <size_t>AREA_BYTES * slot

    def silent(self, bint yes):
        """Whether the driver polls and wants no call; with event indices an index far away says the same."""
        plane_store16(self.at(self.available), NO_NOTIFICATION if yes and not self.event_index else 0)
        plane_store16(self.at(self.available) + 4 + 2 * self.size, <uint16_t>(self.seen_used - yes))

    def start_arguments(self):
        """What Controller.start_queue takes; the descriptors are copies that become the controller's."""
        return {
            "size": self.size,
            "descriptor_address": self.memory.user_address(self.descriptors),
            "available_address": self.memory.user_address(self.available),
            "used_address": self.memory.user_address(self.used),
            "base": self.published,
            "kick": os.dup(self.kick),
            "call": os.dup(self.call),
        }

    # --- one command ---

    cdef void describe(self, int slot, uint32_t data_out, uint32_t data_in) noexcept nogil:
        """Lay out the descriptors of a command: header, data out, response, data in."""
        cdef uint64_t area = self.areas + <uint64_t>AREA_BYTES * slot
        cdef uint64_t data = self.data + <uint64_t>self.data_size * slot
        cdef vring_descriptor *table
        cdef vring_descriptor *head = <vring_descriptor *>self.at(self.descriptors) + slot * self.stride
        cdef int first = 0 if self.indirect else slot * self.stride
        cdef int used = 0
        table = <vring_descriptor *>self.area(slot) if self.indirect else head
        table[used] = vring_descriptor(area + AREA_HEADER, REQUEST_BYTES, DESCRIPTOR_NEXT, <uint16_t>(first + 1))
        used += 1
        if data_out:
            table[used] = vring_descriptor(data, data_out, DESCRIPTOR_NEXT, <uint16_t>(first + used + 1))
            used += 1
        table[used] = vring_descriptor(area + AREA_RESPONSE, RESPONSE_BYTES, DESCRIPTOR_WRITE, 0)
        used += 1
        if data_in:
            table[used - 1].flags |= DESCRIPTOR_NEXT
            table[used - 1].next = <uint16_t>(first + used)
            table[used] = vring_descriptor(data, data_in, DESCRIPTOR_WRITE, 0)
            used += 1
        if self.indirect:
            head[0] = vring_descriptor(area, 16 * used, DESCRIPTOR_INDIRECT, 0)
        self.states[slot].data_out = data_out
        self.states[slot].data_in = data_in

    cdef void offer(self, int slot) noexcept nogil:
        """Put the slot's chain into the available ring; publish shows it."""
        plane_store16(self.at(self.available) + 4 + 2 * (self.next_available & (self.size - 1)),
                      <uint16_t>(slot * self.stride))
        self.next_available += 1
        self.states[slot].busy = True

    cdef bint publish(self) noexcept nogil:
        """Make everything offered available, and kick if the device wants that; returns whether it was kicked."""
        cdef uint8_t *used = self.at(self.used)
        cdef uint16_t before = self.published
        cdef uint16_t event
        cdef bint wanted
        plane_store16_release(self.at(self.available) + 2, self.next_available)
        self.published = self.next_available
        plane_fence()
        if self.event_index:
            event = plane_load16(used + 4 + 8 * self.size)
            wanted = <uint16_t>(self.published - event - 1) < <uint16_t>(self.published - before)
        else:
            wanted = not plane_load16(used) & NO_NOTIFICATION
        if wanted:
            self.kicks += 1
            plane_signal(self.kick)
        return wanted

    cdef int next_used(self, uint32_t *length) noexcept nogil:
        """The slot of the next used element, -1 where there is none, -EBADMSG where the device answered nonsense."""
        cdef uint8_t *used = self.at(self.used)
        cdef uint64_t element
        cdef uint32_t head
        if plane_load16_acquire(used + 2) == self.seen_used:
            return -1
        element = plane_load64(used + 4 + 8 * (self.seen_used & (self.size - 1)))
        head = <uint32_t>element
        length[0] = <uint32_t>(element >> 32)
        if head % self.stride or head // self.stride >= <uint32_t>self.slots:
            return -EBADMSG
        if not self.states[head // self.stride].busy:
            return -EBADMSG
        self.states[head // self.stride].busy = False
        self.seen_used += 1
        return <int>(head // self.stride)

    def free_slot(self):
        """A slot that is not in use; IndexError where all are."""
        cdef int slot
        for slot in range(self.slots):
            if not self.states[slot].busy:
                return slot
        raise IndexError("every slot of the queue is in use")

    def submit(self, bytes cdb, *, data_out=b"", uint32_t data_in=0, int target=0, int lun=0, uint64_t tag=0, slot=None,
               bint publish=True):
        """Send a command; returns its slot. LUN addressing as Linux's: flat space."""
        cdef int number = self.free_slot() if slot is None else slot
        cdef uint8_t *header = self.area(number) + AREA_HEADER
        cdef bytes out = bytes(data_out)
        if len(out) > self.data_size or data_in > self.data_size or len(cdb) > 32:
            raise ValueError("the command does not fit its slot")
        memset(header, 0, REQUEST_BYTES)
        header[0] = 1
        header[1] = <uint8_t>target
        header[2] = <uint8_t>(0x40 | lun >> 8)
        header[3] = <uint8_t>lun
        memcpy(header + 8, &tag, 8)
        memcpy(header + CDB_AT, <const char *>cdb, len(cdb))
        memset(self.area(number) + AREA_RESPONSE, 0xEE, RESPONSE_BYTES)
        memcpy(self.at(self.data) + <size_t>self.data_size * number, <const char *>out, len(out))
        self.describe(number, <uint32_t>len(out), data_in)
        self.offer(number)
        if publish:
            self.publish()
        return number

    def show(self):
        """Publish what was submitted with publish=False; returns whether the device was kicked."""
        return self.publish()

    def control(self, bytes request, int answer, *, slot=None):
        """Send a request of the control queue that wants ``answer`` bytes; returns its slot."""
        cdef int number = self.free_slot() if slot is None else slot
        cdef uint64_t data = self.data + <uint64_t>self.data_size * number
        cdef vring_descriptor *table
        cdef vring_descriptor *head = <vring_descriptor *>self.at(self.descriptors) + number * self.stride
        cdef int first = 0 if self.indirect else number * self.stride
        table = <vring_descriptor *>self.area(number) if self.indirect else head
        memcpy(self.at(data), <const char *>request, len(request))
        memset(self.at(data) + 64, 0xEE, 64)
        table[0] = vring_descriptor(data, <uint32_t>len(request), DESCRIPTOR_NEXT, <uint16_t>(first + 1))
        table[1] = vring_descriptor(data + 64, <uint32_t>answer, DESCRIPTOR_WRITE, 0)
        if self.indirect:
            head[0] = vring_descriptor(self.areas + <uint64_t>AREA_BYTES * number, 32, DESCRIPTOR_INDIRECT, 0)
        self.states[number].data_out = 0
        self.states[number].data_in = 0
        self.offer(number)
        self.publish()
        return number

    def event_buffer(self, uint32_t length=16):
        """Give the device a buffer for an event; returns its slot."""
        cdef int number = self.free_slot()
        cdef vring_descriptor *head = <vring_descriptor *>self.at(self.descriptors) + number * self.stride
        head[0] = vring_descriptor(self.data + <uint64_t>self.data_size * number, length, DESCRIPTOR_WRITE, 0)
        self.offer(number)
        self.publish()
        return number

    def data_of(self, int slot, Py_ssize_t length, Py_ssize_t start=0):
        """Bytes of a slot's data buffer; a control answer is at 64."""
        return (<char *>self.at(self.data) + <size_t>self.data_size * slot + start)[:length]

    def response(self, int slot):
        """(response, SAM status, sense, residual, all 108 bytes) of a slot."""
        cdef bytes raw = (<char *>self.area(slot) + AREA_RESPONSE)[:RESPONSE_BYTES]
        length = int.from_bytes(raw[:4], "little")
        return raw[11], raw[10], raw[12:12 + min(length, 96)], int.from_bytes(raw[4:8], "little"), raw

    def used_element(self):
        """(slot, length) of the next completion, or None."""
        cdef uint32_t length = 0
        cdef int slot = self.next_used(&length)
        if slot == -EBADMSG:
            raise ValueError("the device used a chain that it was not given")
        return None if slot < 0 else (slot, length)

    def wait(self, double timeout=60.0):
        """The next completion; sleeps for the call in between where the device gives one."""
        cdef uint64_t until = plane_now_ns() + <uint64_t>(timeout * 1e9)
        while True:
            found = self.used_element()
            if found is not None:
                return found
            if plane_now_ns() > until:
                raise TimeoutError(f"no completion within {timeout} s")
            if select.select([self.call], [], [], 0.001)[0]:
                os.eventfd_read(self.call)

    # --- many commands ---

    cdef long measure(
        self, uint64_t commands, int depth, int opcode, uint32_t blocks, uint32_t block_size, uint64_t span,
        bint sequential, bint verify, worker *stepped
    ) noexcept nogil:
        """Keep ``depth`` commands going until ``commands`` are done: nanoseconds, or a negative errno."""
        cdef uint64_t sent = 0
        cdef uint64_t done = 0
        cdef uint64_t began = plane_now_ns()
        cdef uint64_t last = began
        cdef uint32_t length = blocks * block_size if opcode else 0
        cdef uint32_t got = 0
        cdef bint writes = opcode in (0x2A, 0x8A)
        cdef int free_slots = depth
        cdef int idle = 0
        cdef int reaped
        cdef int slot
        for slot in range(depth):
            self.prepare(slot, opcode, blocks, length, writes)
            self.free_stack[slot] = slot
        while done < commands:
            reaped = 0
            while reaped < REFILL:
                slot = self.next_used(&got)
                if slot < 0:
                    break
                if self.check(slot, got, length, writes, verify) < 0:
                    return -EIO
                self.free_stack[free_slots] = slot
                free_slots += 1
                reaped += 1
            if slot == -EBADMSG:
                return -EBADMSG
            done += reaped
            while free_slots > 0 and sent < commands:
                free_slots -= 1
                self.aim(self.free_stack[free_slots], opcode, blocks, span, sequential, writes and verify)
                self.offer(self.free_stack[free_slots])
                sent += 1
            if self.next_available != self.published:
                self.publish()
            if stepped is not NULL:
                worker_pass(stepped)
            if reaped:
                idle = 0
                last = 0
                continue
            sgio_pause()
            idle += 1
            if idle & 0xFFFF == 0:
                if last == 0:
                    last = plane_now_ns()
                elif plane_now_ns() - last > <uint64_t>PATIENCE_NS:
                    return -ETIMEDOUT
        return <long>(plane_now_ns() - began)

    cdef void prepare(self, int slot, int opcode, uint32_t blocks, uint32_t length, bint writes) noexcept nogil:
        """What stays the same in every command of a slot."""
        cdef uint8_t *header = self.area(slot) + AREA_HEADER
        memset(header, 0, REQUEST_BYTES)
        header[0] = 1
        header[2] = 0x40
        header[CDB_AT] = <uint8_t>opcode
        if opcode in (0x28, 0x2A):
            header[CDB_AT + 7] = <uint8_t>(blocks >> 8)
            header[CDB_AT + 8] = <uint8_t>blocks
        elif opcode:
            (<uint32_t *>(header + CDB_AT + 10))[0] = htobe32(blocks)
        self.describe(slot, length if writes else 0, 0 if writes else length)

    cdef void aim(
        self, int slot, int opcode, uint32_t blocks, uint64_t span, bint sequential, bint mark
    ) noexcept nogil:
        """Choose the next address of the medium, in whole steps of the transfer length."""
        cdef uint8_t *header = self.area(slot) + AREA_HEADER + CDB_AT
        cdef uint64_t lba
        if opcode == 0:
            return
        if sequential:
            self.random = (self.random + 1) % (span // blocks)
            lba = self.random * blocks
        else:
            self.random ^= self.random << 13
            self.random ^= self.random >> 7
            self.random ^= self.random << 17
            lba = (self.random >> 16) % (span // blocks) * blocks
        self.states[slot].lba = lba
        if opcode in (0x28, 0x2A):
            (<uint32_t *>(header + 2))[0] = htobe32(<uint32_t>lba)
        else:
            (<uint64_t *>(header + 2))[0] = htobe64(lba)
        if mark:
            (<uint64_t *>(self.at(self.data) + <size_t>self.data_size * slot))[0] = lba

    cdef int check(self, int slot, uint32_t got, uint32_t length, bint writes, bint verify) noexcept nogil:
        """A completion must be GOOD; with ``verify`` what was read begins with its address, as it was written."""
        cdef uint8_t *response = self.area(slot) + AREA_RESPONSE
        if response[11] or response[10] or got != RESPONSE_BYTES + (0 if writes else length):
            return -EIO
        if verify and not writes and length:
            if (<uint64_t *>(self.at(self.data) + <size_t>self.data_size * slot))[0] != self.states[slot].lba:
                return -EIO
        return 0

    def run(self, uint64_t commands, *, int depth=1, int opcode=0, uint32_t blocks=1, uint32_t block_size=512,
            uint64_t span=1, bint sequential=False, bint verify=False, Controller stepped=None):
        """Run commands of one kind and return the nanoseconds it took.

        ``opcode`` is TEST UNIT READY (00h), READ or WRITE (10) or (16); ``span`` the blocks of the medium that are
        used. Raises OSError where a command does not end with GOOD or none ends any more.
        """
        cdef long rc
        cdef worker *device = NULL
        if stepped is not None:
            if not stepped.held:
                raise RuntimeError("only a worker that is held can be stepped")
            device = &stepped.workers[0]
        if not 0 < depth <= self.slots or blocks * block_size > self.data_size or span < blocks:
            raise ValueError("the queue has no room for such commands")
        if opcode not in (0x00, 0x28, 0x2A, 0x88, 0x8A):
            raise ValueError(f"operation code {opcode:02X}h cannot be measured")
        with nogil:
            rc = self.measure(commands, depth, opcode, blocks, block_size, span, sequential, verify, device)
        if rc < 0:
            raise OSError(-rc, f"the device failed: {os.strerror(-rc)}")
        return rc
