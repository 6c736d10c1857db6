/* What the data plane is measured beside: a plain copy loop, two threads that pass one word, and two that pass a
 * descriptor through a split ring with nothing behind it. */
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static uint64_t now_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static void pause_once(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#endif
}

/* Copy `count` blocks from random places of `medium` to the `slots` buffers at `ring` in turn. */
void floor_copy(const uint8_t *medium, uint64_t blocks, uint32_t block, uint8_t *ring, uint32_t slots, uint64_t count)
{
    static uint64_t state = 0x9E3779B97F4A7C15u; /* goes on from call to call, or the blocks would soon be in a cache */
    for (uint64_t i = 0; i < count; i++) {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        memcpy(ring + (i % slots) * block, medium + (state >> 16) % blocks * block, block);
    }
}

struct words {
    _Alignas(64) uint64_t ping;
    _Alignas(64) uint64_t pong;
    uint64_t rounds;
};

static void *answer_words(void *argument)
{
    struct words *words = argument;
    for (uint64_t i = 1; i <= words->rounds; i++) {
        while (__atomic_load_n(&words->ping, __ATOMIC_ACQUIRE) != i)
            pause_once();
        __atomic_store_n(&words->pong, i, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* Nanoseconds for `rounds` words there and back between two threads, 0 where there is no second thread. */
uint64_t floor_ping_pong(uint64_t rounds)
{
    static struct words words;
    pthread_t other;
    uint64_t began;
    memset(&words, 0, sizeof(words));
    words.rounds = rounds;
    if (pthread_create(&other, NULL, answer_words, &words) != 0)
        return 0;
    began = now_ns();
    for (uint64_t i = 1; i <= rounds; i++) {
        __atomic_store_n(&words.ping, i, __ATOMIC_RELEASE);
        while (__atomic_load_n(&words.pong, __ATOMIC_ACQUIRE) != i)
            pause_once();
    }
    began = now_ns() - began;
    pthread_join(other, NULL);
    return began;
}

struct descriptor {
    uint64_t address;
    uint32_t length;
    uint16_t flags, next;
};

enum { QUEUE = 128, HEADER = 51, RESPONSE = 108 };

struct echo {
    _Alignas(4096) struct descriptor table[QUEUE];
    _Alignas(4096) struct { uint16_t flags, index, ring[QUEUE]; } available;
    _Alignas(4096) struct { uint16_t flags, index; struct { uint32_t id, length; } ring[QUEUE]; } used;
    _Alignas(4096) struct { struct descriptor indirect[4]; uint8_t header[64], response[128]; } slots[QUEUE];
    uint64_t rounds;
};

/* A device that only gives every chain back: no bounds, no SCSI, no suppression. It touches what any device must. */
static void *answer_ring(void *argument)
{
    struct echo *echo = argument;
    uint16_t last = 0;
    for (uint64_t done = 0; done < echo->rounds;) {
        uint16_t index = __atomic_load_n(&echo->available.index, __ATOMIC_ACQUIRE);
        if (index == last) {
            pause_once();
            continue;
        }
        for (; last != index; last++, done++) {
            uint16_t head = echo->available.ring[last % QUEUE];
            struct descriptor *table = (struct descriptor *)(uintptr_t)echo->table[head].address;
            uint8_t header[HEADER], response[RESPONSE] = {0};
            memcpy(header, (void *)(uintptr_t)table[0].address, HEADER);
            response[11] = header[19] & 0;
            memcpy((void *)(uintptr_t)table[1].address, response, RESPONSE);
            echo->used.ring[last % QUEUE].id = head;
            echo->used.ring[last % QUEUE].length = RESPONSE;
        }
        __atomic_store_n(&echo->used.index, last, __ATOMIC_RELEASE);
    }
    return NULL;
}

/* Nanoseconds for `rounds` chains there and back at depth 1, 0 where there is no second thread. */
uint64_t floor_echo(uint64_t rounds)
{
    struct echo *echo = aligned_alloc(4096, sizeof(*echo));
    pthread_t other;
    uint64_t began;
    uint16_t seen = 0, next = 0;
    memset(echo, 0, sizeof(*echo));
    echo->rounds = rounds;
    echo->slots[0].indirect[0] = (struct descriptor){(uintptr_t)echo->slots[0].header, HEADER, 1, 1};
    echo->slots[0].indirect[1] = (struct descriptor){(uintptr_t)echo->slots[0].response, RESPONSE, 2, 0};
    echo->table[0] = (struct descriptor){(uintptr_t)echo->slots[0].indirect, 32, 4, 0};
    if (pthread_create(&other, NULL, answer_ring, echo) != 0) {
        free(echo);
        return 0;
    }
    began = now_ns();
    for (uint64_t i = 0; i < rounds; i++) {
        echo->available.ring[next % QUEUE] = 0;
        __atomic_store_n(&echo->available.index, ++next, __ATOMIC_RELEASE);
        __atomic_thread_fence(__ATOMIC_SEQ_CST); /* any driver looks at used.flags here */
        while (__atomic_load_n(&echo->used.index, __ATOMIC_ACQUIRE) == seen)
            pause_once();
        seen++;
        if (echo->slots[0].response[11] || echo->used.ring[(uint16_t)(seen - 1) % QUEUE].id)
            break;
    }
    began = now_ns() - began;
    pthread_join(other, NULL);
    free(echo);
    return began;
}
