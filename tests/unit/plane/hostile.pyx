# cython: language_level=3
"""A guest that lies about everything, against one worker without threads: for as many cases as there is time for.

Guest memory lies between pages that nobody may touch, so a byte outside its regions ends the process. Whatever a worker
hands on (to Python, to a port) is answered here, late and out of order; the port touches every byte it was given.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _fastpath.block_port cimport BlockPort
from _fastpath.dispatch cimport worker_return
from _fastpath.guest_memory cimport dirty_log, guest_region, memory_table
from _fastpath.port cimport Port
from _fastpath.sgio cimport SG_FATE_DONE, SG_IN, sg_command
from _fastpath.traffic cimport unit_traffic
from _fastpath.verdict cimport Verdicts
from _fastpath.virtio_scsi cimport (
    REQUEST_BYTES, REQUEST_FROM_PYTHON, RESPONSE_BYTES, UNIT_BLOCKS, UNIT_PORT, UNIT_PYTHON, attached_unit, queue,
    queue_close, queue_open, request,
)
from _fastpath.virtqueue cimport chain_write, vring_descriptor
from _fastpath.worker cimport worker_close, worker_open, worker_pass
from _fastpath.worker_state cimport python_side, worker

cdef extern from "<sys/mman.h>" nogil:
    void *mmap(void *address, size_t length, int protection, int flags, int fd, int64_t offset)
    int munmap(void *address, size_t length)
    int mprotect(void *address, size_t length, int protection)
    void *MAP_FAILED
    int PROT_NONE, PROT_READ, PROT_WRITE, MAP_PRIVATE, MAP_ANONYMOUS

cdef extern from "plane_atomic.h" nogil:
    void *plane_take(void **head)

cdef enum:
    ARENA = 1 << 20
    PAGE = 4096
    QUEUE = 16
    CONTROL = 0
    REQUESTS = 1
    QUEUES = 2
    HELD = 64
    RING_BYTES = 4096  # of a queue, in the first region: descriptors, available at 1024, used at 2048
    TABLES = 2 * RING_BYTES  # indirect tables and headers behind them
    FIRST_GUEST = 0x10000
    FIRST_SIZE = 9 * PAGE
    SECOND_SIZE = 2 * PAGE + 5
    CANARY = 0xC7

cdef uint64_t THIRD_GUEST = <uint64_t>1 << 40


cdef class LatePort(Port):
    """Holds commands back, touches all their data, completes them in any order."""

    cdef sg_command *held[HELD]
    cdef int count
    cdef uint64_t random

    cdef int start(self, sg_command **commands, int n) noexcept nogil:
        cdef int accepted = 0
        while accepted < n and self.count < HELD and (accepted == 0 or self.random & 7):
            self.held[self.count] = commands[accepted]
            self.count += 1
            accepted += 1
            self.random = self.random * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        return accepted

    cdef int reap(self, sg_command **done, int room) noexcept nogil:
        cdef int reaped = 0
        cdef int at
        cdef sg_command *one
        self.random = self.random * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
        while reaped < room and self.count and self.random >> 60:
            self.random = self.random * <uint64_t>6364136223846793005 + <uint64_t>1442695040888963407
            at = <int>((self.random >> 33) % self.count)
            one = self.held[at]
            self.count -= 1
            self.held[at] = self.held[self.count]
            touch(one, <uint8_t>self.random)
            one.error = 0
            one.fate = SG_FATE_DONE
            one.status = <uint8_t>((self.random >> 40) & 2)
            one.sense_length = <uint8_t>(self.random >> 48)
            one.host_status = <uint16_t>((self.random >> 56) & 15)
            one.driver_status = 0
            one.residual = <int>(self.random >> 20)
            done[reaped] = one
            reaped += 1
        return reaped


cdef void touch(sg_command *one, uint8_t value) noexcept nogil:
    cdef uint32_t i
    cdef size_t j
    for i in range(one.iovec_count):
        if one.direction == SG_IN:
            memset(one.iovecs[i].iov_base, value, one.iovecs[i].iov_len)
        else:
            for j in range(one.iovecs[i].iov_len):
                if (<uint8_t *>one.iovecs[i].iov_base)[j] == value:
                    value += 1


cdef class Hostile:
    cdef uint8_t *arena
    cdef guest_region regions[3]
    cdef uint32_t never
    cdef memory_table table
    cdef queue queues[QUEUES]
    cdef attached_unit blocks
    cdef attached_unit port
    cdef attached_unit python
    cdef unit_traffic traffic[3]
    cdef attached_unit *units
    cdef python_side side
    cdef worker worker
    cdef LatePort late
    cdef BlockPort kept
    cdef Verdicts verdicts
    cdef dirty_log log
    cdef uint8_t bits[8]
    cdef uint64_t random
    cdef uint16_t available[QUEUES]
    cdef readonly uint64_t broken
    cdef readonly uint64_t used
    cdef readonly uint64_t answered
    cdef uint32_t stop

    def __cinit__(self, BlockPort port not None, Verdicts verdicts not None, uint64_t seed):
        cdef void *mapped = mmap(NULL, ARENA, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)
        if mapped == MAP_FAILED:
            raise MemoryError
        self.arena = <uint8_t *>mapped
        self.random = seed * 2 + 1
        self.kept = port
        self.verdicts = verdicts
        self.late = LatePort()
        self.late.random = seed
        # The first two follow each other for the guest and lie apart here; the second ends where its page does.
        self.place(0, FIRST_GUEST, FIRST_SIZE, 16 * PAGE)
        self.place(1, FIRST_GUEST + FIRST_SIZE, SECOND_SIZE, 64 * PAGE)
        self.place(2, THIRD_GUEST, PAGE, 128 * PAGE)
        self.table.count = 3
        self.table.regions = self.regions
        self.log.bits = self.bits
        self.log.pages = 64
        self.attach(&self.blocks, 0, UNIT_BLOCKS)
        self.blocks.blocks = port.unit
        self.attach(&self.port, 1, UNIT_PORT)
        self.port.port = <void *>self.late
        self.port.owner = &self.worker
        self.attach(&self.python, 2, UNIT_PYTHON)
        if worker_open(&self.worker, QUEUES) < 0:
            raise MemoryError
        self.worker.python = &self.side
        self.worker.units = &self.units
        self.worker.ports = &self.port
        for i in range(QUEUES):
            self.open(i)

    def __dealloc__(self):
        cdef int i
        for i in range(QUEUES):
            queue_close(&self.queues[i])
        worker_close(&self.worker)
        if self.arena is not NULL:
            munmap(self.arena, ARENA)

    cdef place(self, int number, uint64_t guest, uint64_t size, uint64_t at):
        cdef uint64_t whole = (size + PAGE - 1) & ~<uint64_t>(PAGE - 1)
        if mprotect(self.arena + at, whole, PROT_READ | PROT_WRITE) != 0:
            raise MemoryError
        memset(self.arena + at, CANARY, whole)
        self.regions[number].guest = guest
        self.regions[number].size = size
        self.regions[number].host = self.arena + at + (whole - size)
        self.regions[number].broken = &self.never

    cdef attach(self, attached_unit *unit, int lun, int kind):
        unit.lun = lun
        unit.kind = kind
        unit.traffic = &self.traffic[lun]
        unit.verdicts = &self.verdicts.table
        unit.following = self.units
        self.units = unit

    cdef open(self, int index):
        """A queue as after a start of the device."""
        cdef queue *one = &self.queues[index]
        cdef uint8_t *at = self.regions[0].host + index * RING_BYTES
        if queue_open(one, index if index == CONTROL else 2, QUEUE) < 0:
            raise MemoryError
        memset(at, 0, RING_BYTES)
        one.ring.descriptors = at
        one.ring.available = at + 1024
        one.ring.used = at + 2048
        one.ring.indirect = True
        one.ring.event_index = self.chance(2)
        one.ring.log = &self.log
        one.ring.used_log = &self.log
        one.ring.used_address = FIRST_GUEST + index * RING_BYTES + 2048
        one.memory = &self.table
        one.units = &self.units
        one.worker = &self.worker
        one.header_bytes = 0 if index == CONTROL else REQUEST_BYTES
        one.started = one.running = True
        self.available[index] = 0
        self.worker.queues[index] = one
        self.worker.queue_count = max(self.worker.queue_count, index + 1)

    cdef uint64_t next(self) noexcept nogil:
        self.random ^= self.random << 13
        self.random ^= self.random >> 7
        self.random ^= self.random << 17
        return self.random

    cdef bint chance(self, int one_in) noexcept nogil:
        return (self.next() >> 20) % one_in == 0

    cdef uint64_t address(self) noexcept nogil:
        """Mostly somewhere in memory, often at an edge."""
        cdef uint64_t kind = (self.next() >> 30) % 16
        cdef uint64_t near = (self.next() >> 30) % 64
        if kind < 9:
            return FIRST_GUEST + TABLES + (self.next() >> 20) % (FIRST_SIZE - TABLES)
        if kind == 9:
            return FIRST_GUEST + FIRST_SIZE - near
        if kind == 10:
            return FIRST_GUEST + FIRST_SIZE + SECOND_SIZE - near
        if kind == 11:
            return THIRD_GUEST + near - 8
        if kind == 12:
            return THIRD_GUEST + PAGE - near
        if kind == 13:
            return FIRST_GUEST + (self.next() >> 20) % TABLES  # the rings themselves
        if kind == 14:
            return <uint64_t>0 - near
        return self.next()

    cdef uint32_t length(self) noexcept nogil:
        cdef uint64_t kind = (self.next() >> 30) % 12
        if kind < 3:
            return REQUEST_BYTES
        if kind < 6:
            return RESPONSE_BYTES
        if kind < 9:
            return <uint32_t>((self.next() >> 20) % 1024)
        if kind == 9:
            return <uint32_t>((self.next() >> 20) % 20000)
        if kind == 10:
            return 0
        return <uint32_t>(self.next() >> 20)

    cdef void describe(self, vring_descriptor *one, int index, int count, bint writable) noexcept nogil:
        one.address = self.address()
        one.length = self.length()
        one.flags = (2 if writable else 0) | (1 if index + 1 < count else 0)
        one.next = <uint16_t>(index + 1)
        if self.chance(24):
            one.flags = <uint16_t>(self.next() >> 30)
        if self.chance(24):
            one.next = <uint16_t>((self.next() >> 30) % (QUEUE + 4))

    cdef void header(self, uint8_t *at) noexcept nogil:
        """A request header that is right more often than not."""
        cdef uint8_t opcodes[12]
        memcpy(opcodes, b"\x00\x08\x0a\x28\x2a\x88\x8a\xa8\xaa\x35\x5e\x12", 12)
        memset(at, 0, REQUEST_BYTES)
        at[0] = 1
        at[2] = 0x40 if self.chance(2) else 0
        at[3] = <uint8_t>((self.next() >> 30) % 4)
        at[19] = opcodes[(self.next() >> 30) % 12]
        at[24] = <uint8_t>((self.next() >> 30) % 32)
        at[27] = <uint8_t>((self.next() >> 30) % 4)
        at[19 + 13] = at[27]
        at[19 + 9] = at[24]
        if self.chance(6):
            at[(self.next() >> 30) % REQUEST_BYTES] = <uint8_t>(self.next() >> 30)

    cdef void offer(self, int index) noexcept nogil:
        """One more chain in a queue, of plain descriptors or with a table."""
        cdef uint8_t *base = self.regions[0].host
        cdef uint8_t *ring = base + index * RING_BYTES
        cdef vring_descriptor *table = <vring_descriptor *>ring
        cdef int first = self.available[index] % QUEUE if not self.chance(32) else <int>((self.next() >> 30) % QUEUE)
        cdef int head = first
        cdef int count = 1 + <int>((self.next() >> 30) % 6)
        cdef int readable = 1 if self.chance(2) else <int>((self.next() >> 30) % (count + 1))
        cdef uint64_t at
        cdef int i
        at = TABLES + (self.next() >> 20) % (FIRST_SIZE - TABLES - 512) // 8 * 8
        if self.chance(2):
            table[head].address = FIRST_GUEST + at
            table[head].length = 16 * count
            table[head].flags = 4
            if self.chance(16):
                table[head].length = self.length()
            if self.chance(16):
                table[head].address = self.address()
            if self.chance(16):
                table[head].flags = <uint16_t>(self.next() >> 30)
            table = <vring_descriptor *>(base + at)
            head = 0
            i = 0
        for i in range(count):
            self.describe(&table[(head + i) % QUEUE], head + i, head + count, i >= readable)
        if not self.chance(8):
            # What most requests look like: header, response first of the writable.
            at = FIRST_SIZE - 2 * PAGE + (self.next() >> 20) % PAGE
            self.header(base + at)
            table[head].address = FIRST_GUEST + at
            table[head].length = REQUEST_BYTES
            if readable < count and readable:
                table[(head + readable) % QUEUE].length = RESPONSE_BYTES
        (<uint16_t *>(ring + 1024 + 4))[self.available[index] % QUEUE] = <uint16_t>(
            first if not self.chance(64) else <int>((self.next() >> 30) % 65536))
        self.available[index] += 1

    cdef void answer(self) noexcept nogil:
        """What Python would do with its inbox."""
        cdef request *one = <request *>plane_take(&self.side.inbox)
        cdef request *following
        cdef uint32_t at
        cdef uint64_t junk[16]
        while one is not NULL:
            following = one.link
            at = one.buffers.header_count + one.buffers.out_count + one.buffers.response_count
            memset(junk, 0x5A, sizeof(junk))
            one.written = chain_write(NULL, &one.buffers.pieces[at], &one.buffers.addresses[at], one.buffers.in_count,
                                      junk, min(one.buffers.in_bytes, <uint64_t>sizeof(junk)))
            one.response = 0
            one.residual = self.next() >> 40
            one.command.sense_length = <uint8_t>self.next()
            worker_return(one, REQUEST_FROM_PYTHON)
            self.answered += 1
            one = following

    cdef int settle(self, int index) noexcept nogil:
        """Run until nothing is in flight: 0, or -1 where something never comes back."""
        cdef int patience = 10000
        while self.queues[index].in_flight or plane_pending(self):
            worker_pass(&self.worker)
            self.answer()
            patience -= 1
            if patience == 0:
                return -1
        return 0

    cdef int one_case(self) noexcept nogil:
        """0, or the number of the promise that was broken."""
        cdef int index = CONTROL if self.chance(8) else REQUESTS
        cdef queue *one = &self.queues[index]
        cdef uint8_t *ring = self.regions[0].host + index * RING_BYTES
        cdef int n = 1 + <int>((self.next() >> 30) % 6)
        cdef uint16_t before = one.ring.used_index
        cdef int i
        for i in range(n):
            self.offer(index)
        if self.chance(64):
            self.available[index] += <uint16_t>(self.next() >> 30)
        (<uint16_t *>(ring + 1024))[1] = self.available[index]
        (<uint16_t *>(ring + 1024))[0] = <uint16_t>self.chance(2)
        if self.chance(3):
            for i in range(<int>((self.next() >> 30) % 4)):
                self.regions[0].host[(self.next() >> 20) % FIRST_SIZE] = <uint8_t>(self.next() >> 30)
        for i in range(3):
            worker_pass(&self.worker)
            if self.chance(2):
                self.answer()
        if one.in_flight > QUEUE:
            return 1
        self.used += <uint16_t>(one.ring.used_index - before)
        if one.ring.published != one.ring.used_index and not one.ring.broken:
            return 2
        for i in range(5):
            if self.regions[1].host[-1 - i] != CANARY:
                return 3
        if one.ring.broken or self.queues[1 - index].ring.broken:  # a guest may well spoil its other ring itself
            self.broken += 1
            if one.ring.broken and one.running:
                return 4
            if self.settle(CONTROL) < 0 or self.settle(REQUESTS) < 0:
                return 5
            return -1
        # The driver gives up what it sent: the next case begins with an empty ring and its own numbers.
        if self.settle(index) < 0:
            return 5
        self.available[index] = one.ring.last_available
        return 0

    def cases(self, uint64_t count):
        """Run so many; raises AssertionError with the number of the promise that was broken."""
        cdef uint64_t i
        cdef int rc
        cdef int index
        for i in range(count):
            with nogil:
                rc = self.one_case()
            if rc > 0:
                raise AssertionError(f"case {i}: promise {rc} was broken")
            if rc < 0:
                for index in range(QUEUES):
                    if self.queues[index].ring.broken:
                        queue_close(&self.queues[index])
                        self.open(index)

    def scribble(self):
        """Change guest memory at random until told to stop: nothing may be trusted that is read twice."""
        cdef uint64_t state = 88172645463325252
        with nogil:
            while not self.stop:
                state ^= state << 13
                state ^= state >> 7
                state ^= state << 17
                self.regions[0].host[(state >> 20) % FIRST_SIZE] = <uint8_t>(state >> 40)

    def enough(self):
        self.stop = 1


cdef bint plane_pending(Hostile self) noexcept nogil:
    return self.side.inbox is not NULL
