# cython: language_level=3
"""C view of a port whose commands are executed by threads that wait for the kernel."""

from libc.stdint cimport uint32_t

from _fastpath.port cimport Port
from _fastpath.sgio cimport sg_command
from _fastpath.sgio_pool cimport participant


cdef enum:
    PORT_ROOM = 256  # commands a port has at most; a power of two
    PORT_THREADS = 64


# One thread: its own open file, and a ring of what it has done, which only it writes and only the worker reads.
cdef struct port_thread:
    void *owner  # port_state
    unsigned long thread
    participant self
    uint32_t done_head  # moved by the worker
    uint32_t done_tail  # moved by the thread
    sg_command *done[PORT_ROOM]


cdef struct port_state:
    bint maps_pages
    int threads
    uint32_t outstanding  # the worker's
    uint32_t stop
    uint32_t parked
    uint32_t watching  # the worker may sleep: a completion must ring
    int bell  # eventfd
    uint32_t head  # of the ring of commands: claimed by threads
    uint32_t tail  # moved by the worker
    sg_command *commands[PORT_ROOM]
    port_thread workers[PORT_THREADS]


cdef class SgPort(Port):
    cdef port_state *state
    cdef readonly str label
    cdef unsigned int forks
