/* Ring indices, fences, lock-free lists and prefetch of the data plane: what Cython has no words for. */
#ifndef PYPROXY_PLANE_ATOMIC_H
#define PYPROXY_PLANE_ATOMIC_H

#include <stdint.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define PLANE_UNUSED __attribute__((unused))

/* One access, no tearing, no second read: the other side of a ring may change the word at any time. */
PLANE_UNUSED static inline uint16_t plane_load16(const void *word)
{
    return __atomic_load_n((const uint16_t *)word, __ATOMIC_RELAXED);
}

PLANE_UNUSED static inline uint16_t plane_load16_acquire(const void *word)
{
    return __atomic_load_n((const uint16_t *)word, __ATOMIC_ACQUIRE);
}

PLANE_UNUSED static inline void plane_store16(void *word, uint16_t value)
{
    __atomic_store_n((uint16_t *)word, value, __ATOMIC_RELAXED);
}

PLANE_UNUSED static inline void plane_store16_release(void *word, uint16_t value)
{
    __atomic_store_n((uint16_t *)word, value, __ATOMIC_RELEASE);
}

PLANE_UNUSED static inline uint64_t plane_load64(const void *word)
{
    return __atomic_load_n((const uint64_t *)word, __ATOMIC_RELAXED);
}

PLANE_UNUSED static inline void plane_store64(void *word, uint64_t value)
{
    __atomic_store_n((uint64_t *)word, value, __ATOMIC_RELAXED);
}

PLANE_UNUSED static inline uint8_t plane_load8(const void *byte)
{
    return __atomic_load_n((const uint8_t *)byte, __ATOMIC_ACQUIRE);
}

PLANE_UNUSED static inline void plane_store8(void *byte, uint8_t value)
{
    __atomic_store_n((uint8_t *)byte, value, __ATOMIC_RELAXED);
}

/* A locked operation on x86, so it also orders the store it announces before what the reader does next. */
PLANE_UNUSED static inline void plane_or8(uint8_t *byte, uint8_t bits)
{
    __atomic_fetch_or(byte, bits, __ATOMIC_SEQ_CST);
}

PLANE_UNUSED static inline void plane_fence(void) { __atomic_thread_fence(__ATOMIC_SEQ_CST); }
PLANE_UNUSED static inline void plane_release(void) { __atomic_thread_fence(__ATOMIC_RELEASE); }

/* A list that any thread may push to and one thread takes whole. The first word of an item is its link. */
PLANE_UNUSED static inline void plane_push(void **head, void *item)
{
    void *first = __atomic_load_n(head, __ATOMIC_RELAXED);
    do {
        *(void **)item = first;
    } while (!__atomic_compare_exchange_n(head, &first, item, 1, __ATOMIC_SEQ_CST, __ATOMIC_RELAXED));
}

/* What was pushed, oldest first. */
PLANE_UNUSED static inline void *plane_take(void **head)
{
    void *item, *next, *oldest = NULL;
    if (__atomic_load_n(head, __ATOMIC_SEQ_CST) == NULL)
        return NULL;
    item = __atomic_exchange_n(head, NULL, __ATOMIC_SEQ_CST);
    while (item != NULL) {
        next = *(void **)item;
        *(void **)item = oldest;
        oldest = item;
        item = next;
    }
    return oldest;
}

PLANE_UNUSED static inline int plane_empty(void **head) { return __atomic_load_n(head, __ATOMIC_SEQ_CST) == NULL; }

PLANE_UNUSED static inline void plane_prefetch(const void *address) { __builtin_prefetch(address, 0, 3); }
PLANE_UNUSED static inline void plane_prefetch_write(const void *address) { __builtin_prefetch(address, 1, 3); }

/* Add 1 to an eventfd; whether that was possible. */
PLANE_UNUSED static inline int plane_signal(int descriptor)
{
    uint64_t one = 1;
    return write(descriptor, &one, sizeof(one)) == (ssize_t)sizeof(one);
}

/* Take what an eventfd that is readable holds. */
PLANE_UNUSED static inline int plane_clear(int descriptor)
{
    uint64_t value;
    return read(descriptor, &value, sizeof(value)) == (ssize_t)sizeof(value);
}

/* How many bits a number has: 0 for 0. */
PLANE_UNUSED static inline int plane_bits(uint64_t value)
{
    return value ? 64 - __builtin_clzll(value) : 0;
}

PLANE_UNUSED static inline uint64_t plane_now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

#endif
