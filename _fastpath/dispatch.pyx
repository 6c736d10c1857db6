# cython: language_level=3, boundscheck=False, wraparound=False, initializedcheck=False, cdivision=True
"""Where requests go: from a descriptor chain to the emulated unit, a port or Python, and back to the used ring.

A queue belongs to one worker, and so does a port. What goes to another thread (a port of another worker, Python)
travels on lists whose links lie in the requests: nothing is allocated between kick and notify.
"""

from libc.stdint cimport uint8_t, uint16_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _fastpath.block_port cimport BLOCK_ABORTED, BLOCK_GOOD, BLOCK_PYTHON, BLOCK_TASK_ABORTED, block_execute
from _fastpath.blocks cimport iovec as block_iovec
from _fastpath.cdb cimport CDB_LANE_FAST, CDB_LANE_PR, parse_scaled, scale_for, transfer_scale
from _fastpath.guest_memory cimport guest_translate
from _fastpath.lanes cimport lane_event, lane_ring, scan_completion
from _fastpath.port cimport Port
from _fastpath.sgio cimport SG_FATE_NOT_EXECUTED, SG_IN, SG_MAX_IOVECS, fail_command, sg_command
from _fastpath.traffic cimport traffic_count, traffic_sense, traffic_took, unit_traffic
from _fastpath.verdict cimport goes_straight
from _fastpath.virtio_scsi cimport (
    CONTROL_QUEUE, REQUEST_BYTES, REQUEST_FOR_PORT, REQUEST_FROM_PORT, RESPONSE_BYTES, UNIT_BLOCKS, UNIT_PYTHON,
    VIRTIO_CDB_BYTES, VIRTIO_SCSI_ABORTED, VIRTIO_SCSI_BAD_TARGET, VIRTIO_SCSI_FAILURE, VIRTIO_SCSI_OK,
    VIRTIO_SCSI_RESET, attached_unit, queue, request, request_answer, request_parse, request_settle,
)
from _fastpath.virtqueue cimport (
    chain, chain_mark, vring, vring_descriptor, vring_must_notify, vring_publish, vring_push, vring_silence, vring_take,
    vring_waiting, vring_walk,
)
from _fastpath.worker_state cimport EVENT_ROOM, PORT_BATCH, plane_event, sleeper, worker

cdef extern from "<endian.h>" nogil:
    uint32_t be32toh(uint32_t value)
    uint64_t be64toh(uint64_t value)

cdef extern from "sgio_atomic.h" nogil:
    uint32_t sgio_load(const uint32_t *word)
    void sgio_store(uint32_t *word, uint32_t value)
    uint32_t sgio_add(uint32_t *word, uint32_t value)

cdef extern from "plane_atomic.h" nogil:
    uint8_t plane_load8(const void *byte)
    void plane_fence()
    void plane_push(void **head, void *item)
    void *plane_take(void **head)
    void plane_prefetch(const void *address)
    void plane_prefetch_write(const void *address)
    bint plane_signal(int descriptor)
    uint64_t plane_now_ns()

cdef enum:
    CHUNK = 16  # requests that are walked, prefetched and executed together
    TASK_ABORTED = 0x40
    CDB_AT = 19  # in the request header
    AHEAD_BYTES = 512  # of a transfer; the processor fetches the rest of a longer one by itself

cdef transfer_scale _SCALE
scale_for(512, &_SCALE)


# --- waking -----------------------------------------------------------------------------------------------------------

cdef void wake(sleeper *other) noexcept nogil:
    """After something was left for a thread: it looks once more before it sleeps, so only a sleeping one is woken."""
    plane_fence()
    if sgio_load(&other.sleeping):
        plane_signal(other.wake)


cdef void worker_return(request *finished, uint8_t state) noexcept nogil:
    cdef worker *home = <worker *>finished.owner.worker
    finished.state = state
    plane_push(&home.inbox, finished)
    wake(&home.sleep)


cdef bint queue_notify(queue *self, bint always) noexcept nogil:
    if (vring_must_notify(&self.ring) or always) and self.call >= 0:
        return plane_signal(self.call)
    return False


# --- one request ------------------------------------------------------------------------------------------------------

cdef void _finish(worker *self, request *done) noexcept nogil:
    """Answer a request whose result is known; it is published at the end of the pass."""
    cdef queue *owner = done.owner
    cdef chain *buffers = &done.buffers
    cdef uint32_t at
    owner.in_flight -= 1
    if owner.ring.broken:
        return
    if owner.index == CONTROL_QUEUE:
        at = buffers.header_count + buffers.out_count + buffers.response_count
        chain_mark(owner.ring.log, &buffers.pieces[at], &buffers.addresses[at], buffers.in_count, done.written)
        vring_push(&owner.ring, done.head, <uint32_t>done.written)
        return
    if done.command.direction == SG_IN:
        self.counts.bytes_in += done.written
    else:
        self.counts.bytes_out += done.command.transfer_length - done.residual
    request_answer(done)


cdef void _refuse(worker *self, request *refused, uint8_t response) noexcept nogil:
    """Answer without asking anybody."""
    refused.response = response
    refused.command.status = 0
    refused.command.sense_length = 0
    refused.written = 0
    refused.residual = refused.buffers.out_bytes + refused.buffers.in_bytes
    _finish(self, refused)


cdef void _to_python(worker *self, request *one) noexcept nogil:
    self.counts.python_commands += 1
    if one.unit is not NULL:
        one.unit.traffic[self.number].python += 1
    if one.recovered and one.owner.index != CONTROL_QUEUE:
        # It may have been executed already, and doing it again is not known to be harmless: the guest decides.
        _refuse(self, one, VIRTIO_SCSI_RESET)
        return
    plane_push(&self.python.inbox, one)
    wake(&self.python.sleep)


cdef void _append_pending(attached_unit *unit, request *one) noexcept nogil:
    one.link = NULL
    if unit.first_pending is NULL:
        unit.first_pending = one
    else:
        (<request *>unit.last_pending).link = one
    unit.last_pending = one


cdef void _to_port(worker *self, request *one) noexcept nogil:
    cdef attached_unit *unit = one.unit
    cdef worker *owner = <worker *>unit.owner
    one.command.cdb_length = <uint8_t>one.parsed.cdb_length
    one.command.timeout_ms = unit.timeout_ms
    if one.command.iovec_count > SG_MAX_IOVECS:
        _refuse(self, one, VIRTIO_SCSI_FAILURE)
        return
    self.counts.port_commands += 1
    one.began = plane_now_ns()
    if sgio_load(<uint32_t *>&unit.in_flight) == 0:
        unit.moved_ns = one.began  # before it counts: whoever reads meanwhile must not find an old time
    sgio_add(<uint32_t *>&unit.in_flight, 1)
    if owner is self:
        _append_pending(unit, one)
        return
    one.state = REQUEST_FOR_PORT
    plane_push(&owner.inbox, one)
    wake(&owner.sleep)


cdef bint _repeatable(const request *one) noexcept nogil:
    """Commands of a block device that may be executed twice: TEST UNIT READY, READ, WRITE, SYNCHRONIZE CACHE."""
    return one.parsed.opcode in (
        0x00, 0x08, 0x0A, 0x28, 0x2A, 0x35, 0x88, 0x8A, 0x91, 0xA8, 0xAA)


cdef void _to_blocks(worker *self, request *one) noexcept nogil:
    cdef chain *buffers = &one.buffers
    cdef uint32_t out_at = buffers.header_count
    cdef uint32_t in_at = out_at + buffers.out_count + buffers.response_count
    cdef uint64_t moved = 0
    cdef int rc = block_execute(
        &one.unit.blocks, &one.parsed, one.command.cdb,
        <const block_iovec *>&buffers.pieces[out_at], <int>buffers.out_count, buffers.out_bytes,
        <const block_iovec *>&buffers.pieces[in_at], <int>buffers.in_count, buffers.in_bytes, &moved)
    if rc == BLOCK_PYTHON:
        _to_python(self, one)
        return
    self.counts.inline_commands += 1
    one.residual = buffers.in_bytes + buffers.out_bytes - moved
    if one.command.direction == SG_IN:
        one.written = moved
    if rc == BLOCK_ABORTED:
        one.response = VIRTIO_SCSI_ABORTED
    elif rc == BLOCK_TASK_ABORTED:
        one.command.status = TASK_ABORTED
    traffic_count(&one.unit.traffic[self.number], one.parsed.cls, one.response, one.command.status,
                  one.command.direction == SG_IN, moved)
    if rc != BLOCK_GOOD:
        one.written = buffers.in_bytes  # some of it may have been
    _finish(self, one)


cdef bint _target_exists(const queue *self, int target) noexcept nogil:
    cdef attached_unit *each = self.units[0]
    while each is not NULL:
        if each.target == target:
            return True
        each = each.following
    return False


cdef void _route(worker *self, request *one) noexcept nogil:
    """Send a request whose header was accepted on its way."""
    cdef attached_unit *unit = one.unit
    cdef const transfer_scale *scale = &_SCALE
    if unit is NULL or unit.detaching:
        if _target_exists(one.owner, one.target):
            _to_python(self, one)
        else:
            _refuse(self, one, VIRTIO_SCSI_BAD_TARGET)
        return
    if unit.kind == UNIT_PYTHON or (unit.waiting is not NULL and plane_load8(unit.waiting)):
        _to_python(self, one)
        return
    if unit.kind == UNIT_BLOCKS:
        scale = &unit.blocks.scale
    parse_scaled(one.command.cdb, VIRTIO_CDB_BYTES, scale, &one.parsed)
    if unit.verdicts is NULL:
        if one.parsed.lane == CDB_LANE_PR or not one.parsed.valid:
            _to_python(self, one)
            return
    elif not goes_straight(unit.verdicts, &one.parsed):
        _to_python(self, one)
        return
    if one.recovered and not _repeatable(one):
        _refuse(self, one, VIRTIO_SCSI_RESET)
    elif unit.kind == UNIT_BLOCKS:
        _to_blocks(self, one)
    elif one.parsed.cdb_length == 0:
        _to_python(self, one)  # only the unit's owner may know how long a vendor's CDB is
    else:
        _to_port(self, one)


cdef void _execute(worker *self, queue *owner, request *one, int walked) noexcept nogil:
    """Look at a walked chain: control requests and whatever is not for a unit's fast path leave here."""
    cdef chain *buffers = &one.buffers
    cdef int response
    self.counts.requests += 1
    owner.in_flight += 1
    one.written = 0
    one.residual = 0
    one.unit = NULL
    if owner.index == CONTROL_QUEUE:
        if walked < 0 or buffers.out_bytes < 4 or buffers.in_bytes < 1:
            self.counts.malformed += 1
            _finish(self, one)
            return
        _to_python(self, one)
        return
    if walked < 0 or buffers.header_bytes < owner.header_bytes or buffers.response_bytes < RESPONSE_BYTES:
        self.counts.malformed += 1
        if buffers.response_bytes == RESPONSE_BYTES:
            one.command.direction = 0
            _refuse(self, one, VIRTIO_SCSI_FAILURE)
        else:
            owner.in_flight -= 1
            vring_push(&owner.ring, one.head, 0)
        return
    response = request_parse(one, self.t10_pi)
    if response != VIRTIO_SCSI_OK:
        _refuse(self, one, <uint8_t>response)
        return
    _route(self, one)


# --- one queue --------------------------------------------------------------------------------------------------------

cdef void break_queue(worker *self, queue *broken) noexcept nogil:
    """Stop a ring whose structure was violated; the others go on."""
    broken.running = False
    if broken.error >= 0:
        plane_signal(broken.error)
    sgio_add(&self.python.broken, 1)
    wake(&self.python.sleep)


cdef void _peek(queue *owner, uint16_t head) noexcept nogil:
    """Bring what a chain's first descriptor points to closer; what it says is only a hint here."""
    cdef const vring_descriptor *first = <const vring_descriptor *>(owner.ring.descriptors + 16 * <size_t>head)
    cdef uint8_t *host = NULL
    if guest_translate(owner.memory, first.address, 64, &host):
        plane_prefetch(host)


cdef void _expect(queue *owner, const chain *buffers) noexcept nogil:
    """Bring the first bytes a READ is about closer; the guest may still change what it asks for.

    They are loaded, not prefetched: processors drop a prefetch whose page is not in the TLB, and on a large medium
    hardly any is.
    """
    cdef const attached_unit *unit = owner.last_unit
    cdef const uint8_t *cdb
    cdef uint64_t offset
    cdef size_t line
    if unit is NULL or unit.kind != UNIT_BLOCKS or unit.blocks.medium.base is NULL:
        return
    if buffers.header_count != 1 or buffers.header_bytes != REQUEST_BYTES or buffers.in_bytes == 0:
        return
    cdb = <const uint8_t *>buffers.pieces[0].iov_base + CDB_AT
    if cdb[0] & 0xE0 == 0x80:
        memcpy(&offset, cdb + 2, 8)
        offset = be64toh(offset)
    else:
        memcpy(&offset, cdb + 2, 4)
        offset = be32toh(<uint32_t>offset)
    if offset >= unit.blocks.medium.size >> unit.blocks.medium.block_shift:
        return
    offset <<= unit.blocks.medium.block_shift
    for line in range(0, <size_t>AHEAD_BYTES, 64):
        plane_load8(unit.blocks.medium.base + offset + line)


cdef int serve_queue(worker *self, queue *owner) noexcept nogil:
    """Take what is available, at most a whole ring; returns how many."""
    cdef request *chunk[CHUNK]
    cdef int walked[CHUNK]
    cdef vring *ring = &owner.ring
    cdef request *one
    cdef chain *buffers
    cdef int total = 0
    cdef int waiting
    cdef int count
    cdef int head
    cdef int i
    while owner.recovered_at < owner.recovered_count:
        one = &owner.requests[owner.recovered[owner.recovered_at]]
        owner.recovered_at += 1
        one.recovered = True
        head = vring_walk(ring, owner.memory, one.head, owner.header_bytes,
                          RESPONSE_BYTES if owner.header_bytes else 0, &one.buffers)
        _execute(self, owner, one, head)
        total += 1
    waiting = vring_waiting(ring)
    if waiting > 0:
        vring_silence(ring)
    while waiting > 0 and total < ring.size:
        count = min(waiting, <int>CHUNK)
        for i in range(count):
            head = vring_take(ring)
            if head < 0:
                count = i
                break
            chunk[i] = &owner.requests[head]
            plane_prefetch(ring.descriptors + 16 * <size_t>head)
            plane_prefetch_write(&chunk[i].buffers)
        for i in range(count):
            _peek(owner, chunk[i].head)
        for i in range(count):
            one = chunk[i]
            one.recovered = False
            buffers = &one.buffers
            walked[i] = vring_walk(ring, owner.memory, one.head, owner.header_bytes,
                                   RESPONSE_BYTES if owner.header_bytes else 0, buffers)
            if buffers.header_count:
                plane_prefetch(buffers.pieces[0].iov_base)
            if buffers.response_count:
                plane_prefetch_write(buffers.pieces[buffers.header_count + buffers.out_count].iov_base)
        for i in range(count):
            _expect(owner, &chunk[i].buffers)
        for i in range(count):
            _execute(self, owner, chunk[i], walked[i])
        total += count
        if ring.broken:
            break
        vring_publish(ring)
        waiting = vring_waiting(ring)
    if ring.broken:
        break_queue(self, owner)
    return total


# --- ports ------------------------------------------------------------------------------------------------------------

cdef void _post_event(worker *self, const request *done) noexcept nogil:
    """What a completion says about reservations goes to Python; it waits for nobody."""
    cdef lane_event found
    cdef lane_ring one
    cdef plane_event *event
    cdef uint32_t tail = self.events.tail
    memset(&one, 0, sizeof(one))
    one.events = &found
    one.capacity = 1
    scan_completion(&one, &done.command, &done.parsed, 0)
    if one.used == 0:
        return
    if tail - sgio_load(&self.events.head) == EVENT_ROOM:
        self.events.lost += 1
    else:
        event = &self.events.events[tail & (EVENT_ROOM - 1)]
        event.target = done.target
        event.lun = done.lun
        event.kind = found.kind
        event.asc = found.asc
        event.ascq = found.ascq
        memcpy(event.cdb, done.command.cdb, VIRTIO_CDB_BYTES)
        sgio_store(&self.events.tail, tail + 1)
    wake(&self.python.sleep)


cdef void _count(worker *self, const request *done) noexcept nogil:
    """What a port has done; the unit is there as long as the command counts as in flight."""
    cdef unit_traffic *traffic = &done.unit.traffic[self.number]
    cdef bint to_guest = done.command.direction == SG_IN
    cdef uint64_t now = plane_now_ns()
    traffic_count(traffic, done.parsed.cls, done.response, done.command.status, to_guest,
                  done.written if to_guest else done.command.transfer_length - done.residual)
    if done.command.status == 0x02:  # CHECK CONDITION
        traffic_sense(traffic, done.command.sense, done.command.sense_length)
    if not done.command.fate and not done.command.host_status:
        done.unit.moved_ns = now
    traffic_took(traffic, done.parsed.cls, now - done.began)


cdef void _reaped(worker *self, request *done) noexcept nogil:
    if done.command.status or done.command.fate or done.command.host_status or done.parsed.lane != CDB_LANE_FAST:
        _post_event(self, done)
    request_settle(done)
    _count(self, done)
    sgio_add(<uint32_t *>&done.unit.in_flight, <uint32_t>-1)
    if done.owner.worker == self:
        _finish(self, done)
    else:
        worker_return(done, REQUEST_FROM_PORT)


cdef int _start_port(worker *self, attached_unit *unit) noexcept nogil:
    cdef sg_command *commands[PORT_BATCH]
    cdef request *one
    cdef int total = 0
    cdef int count
    cdef int accepted
    cdef int left
    while unit.first_pending is not NULL:
        count = 0
        one = <request *>unit.first_pending
        while one is not NULL and count < PORT_BATCH:
            commands[count] = &one.command
            count += 1
            one = one.link
        accepted = (<Port>unit.port).start(commands, count)
        left = count if accepted < 0 else accepted
        total += left
        while left > 0:
            left -= 1
            # The link is read before the request may be answered and its slot used again.
            one = <request *>unit.first_pending
            unit.first_pending = one.link
            if accepted < 0:
                fail_command(&one.command, -accepted, SG_FATE_NOT_EXECUTED)
                _reaped(self, one)
        if 0 <= accepted < count:
            break
    return total


cdef int run_port(worker *self, attached_unit *unit) noexcept nogil:
    """Start what waits for the port, take back what it has done; returns how many commands moved."""
    cdef sg_command *done[PORT_BATCH]
    cdef size_t offset = <size_t>&(<request *>NULL).command
    cdef int total = 0
    cdef int count
    cdef int i
    if sgio_load(<uint32_t *>&unit.in_flight) == 0:
        return 0
    total = _start_port(self, unit)
    while True:
        count = (<Port>unit.port).reap(done, PORT_BATCH)
        for i in range(count):
            _reaped(self, <request *>(<char *>done[i] - offset))
        total += max(count, 0)
        if count < PORT_BATCH:
            break
    if total and unit.first_pending is not NULL:
        total += _start_port(self, unit)
    return total


cdef int empty_inbox(worker *self) noexcept nogil:
    cdef request *one = <request *>plane_take(&self.inbox)
    cdef request *following
    cdef int total = 0
    while one is not NULL:
        following = one.link
        if one.state == REQUEST_FOR_PORT:
            _append_pending(one.unit, one)
        else:
            _finish(self, one)
        one = following
        total += 1
    return total
