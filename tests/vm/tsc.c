/* Prints the frequency of the time stamp counter in kHz, by this machine's clock. */
#include <stdio.h>
#include <time.h>
#include <x86intrin.h>

static double milliseconds(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return now.tv_sec * 1e3 + now.tv_nsec / 1e6;
}

int main(void)
{
    const struct timespec pause = {.tv_nsec = 200000000};
    double started = milliseconds();
    unsigned long long ticks = __rdtsc();
    nanosleep(&pause, NULL);
    double ended = milliseconds();
    printf("%.0f\n", (double)(__rdtsc() - ticks) / (ended - started));
    return 0;
}
