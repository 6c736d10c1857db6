/* Survives SIGBUS in mappings whose file another process may truncate: the missing page is replaced by zeros, the
 * mapping is marked broken, and whoever looks after it stops using it. Everything here is async-signal-safe. */
#ifndef PYPROXY_SIGBUS_GUARD_H
#define PYPROXY_SIGBUS_GUARD_H

#include <errno.h>
#include <signal.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/mman.h>

#define GUARDS 8192

struct guard {
    uint8_t *base; /* NULL: the slot is free */
    size_t length;
    size_t page;
    uint32_t *broken;
};

static struct guard guards[GUARDS];
static int guards_high;        /* slots below it have been used */
static uint32_t guards_struck; /* rises with every page replaced, so that threads need to watch one word only */
static struct sigaction guards_before;

static void guards_chain(int number, siginfo_t *info, void *context)
{
    struct sigaction fallback;
    if (guards_before.sa_flags & SA_SIGINFO) {
        guards_before.sa_sigaction(number, info, context);
        return;
    }
    if (guards_before.sa_handler == SIG_IGN && info->si_code <= 0)
        return;
    if (guards_before.sa_handler != SIG_DFL && guards_before.sa_handler != SIG_IGN) {
        guards_before.sa_handler(number);
        return;
    }
    /* As if there were no handler: the faulting instruction runs again, and a signal that was sent is sent again. */
    fallback.sa_handler = SIG_DFL;
    fallback.sa_flags = 0;
    sigemptyset(&fallback.sa_mask);
    sigaction(number, &fallback, NULL);
    if (info->si_code <= 0)
        raise(number);
}

static void guards_handle(int number, siginfo_t *info, void *context)
{
    int saved = errno;
    uint8_t *address = info->si_addr;
    int high = __atomic_load_n(&guards_high, __ATOMIC_ACQUIRE);
    int i;
    for (i = 0; info->si_code > 0 && i < high; i++) {
        struct guard *guard = &guards[i];
        uint8_t *base = __atomic_load_n(&guard->base, __ATOMIC_ACQUIRE);
        uint8_t *page;
        if (base == NULL || address < base || (size_t)(address - base) >= guard->length)
            continue;
        page = base + ((size_t)(address - base) & ~(guard->page - 1));
        if (mmap(page, guard->page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED, -1, 0) == MAP_FAILED)
            break;
        __atomic_store_n(guard->broken, 1, __ATOMIC_SEQ_CST);
        __atomic_fetch_add(&guards_struck, 1, __ATOMIC_SEQ_CST);
        errno = saved;
        return;
    }
    errno = saved;
    guards_chain(number, info, context);
}

/* The functions below are called one at a time. */

static int guards_install(void)
{
    struct sigaction action;
    static int installed;
    if (installed)
        return 0;
    action.sa_sigaction = guards_handle;
    action.sa_flags = SA_SIGINFO | SA_ONSTACK | SA_RESTART;
    sigemptyset(&action.sa_mask);
    if (sigaction(SIGBUS, &action, &guards_before) < 0)
        return -errno;
    installed = 1;
    return 0;
}

/* A slot's number, or a negative errno. `page` is a power of two. */
static int guards_add(void *base, size_t length, size_t page, uint32_t *broken)
{
    int i, rc = guards_install();
    if (rc < 0)
        return rc;
    for (i = 0; i < GUARDS && guards[i].base != NULL; i++)
        ;
    if (i == GUARDS)
        return -ENOSPC;
    guards[i].length = length;
    guards[i].page = page;
    guards[i].broken = broken;
    __atomic_store_n(&guards[i].base, (uint8_t *)base, __ATOMIC_RELEASE);
    if (i >= guards_high)
        __atomic_store_n(&guards_high, i + 1, __ATOMIC_RELEASE);
    return i;
}

static void guards_remove(int slot) { __atomic_store_n(&guards[slot].base, (uint8_t *)NULL, __ATOMIC_RELEASE); }

#endif
