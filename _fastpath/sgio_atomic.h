/* Atomics, futexes and the fork counter: what Cython has no words for. */
#ifndef PYPROXY_SGIO_ATOMIC_H
#define PYPROXY_SGIO_ATOMIC_H

#include <errno.h>
#include <linux/futex.h>
#include <pthread.h>
#include <stdint.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SGIO_UNUSED __attribute__((unused))

SGIO_UNUSED static inline uint32_t sgio_load(const uint32_t *word)
{
    return __atomic_load_n(word, __ATOMIC_SEQ_CST);
}

SGIO_UNUSED static inline void sgio_store(uint32_t *word, uint32_t value)
{
    __atomic_store_n(word, value, __ATOMIC_SEQ_CST);
}

/* Returns the value before the addition. */
SGIO_UNUSED static inline uint32_t sgio_add(uint32_t *word, uint32_t value)
{
    return __atomic_fetch_add(word, value, __ATOMIC_SEQ_CST);
}

SGIO_UNUSED static inline uint64_t sgio_load64(const uint64_t *word)
{
    return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

SGIO_UNUSED static inline void sgio_store64(uint64_t *word, uint64_t value)
{
    __atomic_store_n(word, value, __ATOMIC_RELEASE);
}

SGIO_UNUSED static inline void *sgio_load_pointer(void *const *word)
{
    return __atomic_load_n(word, __ATOMIC_RELAXED);
}

SGIO_UNUSED static inline void sgio_store_pointer(void **word, void *value)
{
    __atomic_store_n(word, value, __ATOMIC_RELAXED);
}

SGIO_UNUSED static inline int sgio_swap(uint32_t *word, uint32_t expected, uint32_t desired)
{
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

SGIO_UNUSED static inline int sgio_swap64(uint64_t *word, uint64_t expected, uint64_t desired)
{
    return __atomic_compare_exchange_n(word, &expected, desired, 0, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

SGIO_UNUSED static inline void sgio_pause(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield" ::: "memory");
#else
    __asm__ volatile("" ::: "memory");
#endif
}

/* Sleep while *word is still `seen`; may return early for no reason, so callers look again. */
SGIO_UNUSED static inline void sgio_futex_wait(uint32_t *word, uint32_t seen)
{
    syscall(SYS_futex, word, FUTEX_WAIT_PRIVATE, seen, NULL, NULL, 0);
}

SGIO_UNUSED static inline void sgio_futex_wake(uint32_t *word, int waiters)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, waiters, NULL, NULL, 0);
}

/* Milliseconds, a timer tick exact: read once per round of the submit loop, it must cost next to nothing. */
SGIO_UNUSED static inline uint64_t sgio_now_ms(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

/* Raised in the child of every fork: pool threads do not survive it and sg descriptors refuse the child's credentials. */
SGIO_UNUSED static unsigned int sgio_forks;
SGIO_UNUSED static void sgio_forked(void) { sgio_forks++; }
SGIO_UNUSED static int sgio_watch_forks(void) { return pthread_atfork(NULL, NULL, sgio_forked); }
SGIO_UNUSED static inline unsigned int sgio_fork_generation(void) { return sgio_forks; }

#endif
