// Runs a grid on the host: one fibre per CUDA thread, the clusters one after another (for most
// kernels these are single blocks), the threads of all blocks of one cluster by turns.
//
// A thread runs until it waits at a meeting or leaves the kernel; then the ready thread goes on
// that is first in the launch's order. So some threads run as far ahead of the others as barriers
// let them. A fault leaves all fibres where they are and returns to the host with a message.
#include "scheduler.h"

#include <dlfcn.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

// The kernel sees these as constants: they are set whenever another thread goes on.
CUDA_ON_CPU_EXPORT uint3 threadIdx, blockIdx, blockDim, gridDim;

namespace cuda_on_cpu {

Cluster cluster;

namespace {

const Launch *launch;
ThreadFunction thread_function;
const char *thread_arguments;
Fault *fault;
bool failed;
uint64_t random_state;

Fibre host;
Fibre *free_fibres[MAX_ALIVE];
int free_fibre_count;

uint64_t ready[MAX_ALIVE / 64];  // a bit for each thread that waits for nothing but its turn

uint64_t random_below(uint64_t limit) {
    random_state += 0x9E3779B97F4A7C15u;  // splitmix64
    uint64_t z = random_state;
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9u;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBu;
    return (z ^ (z >> 31)) % limit;
}

// Put ascending `items` in the launch's order.
template <class Index>
void arrange(Index *items, Index count) {
    for (Index end = count; launch->order != 0 && end > 1; --end) {
        const Index chosen = launch->order < 0 ? count - end : Index(random_below(end));
        if (launch->order < 0 && chosen >= end - 1) break;
        const Index moved = items[end - 1];
        items[end - 1] = items[chosen];
        items[chosen] = moved;
    }
}

// The first ready thread from `first` on, upwards or downwards, or -1.
int find_ready(int first, int step) {
    for (int t = first; t >= 0 && t < cluster.count; t += step) {
        const uint64_t word = ready[t / 64];
        if (!word)
            t = step > 0 ? t | 63 : t & ~63;
        else if (word >> (t % 64) & 1)
            return t;
    }
    return -1;
}

// The thread that runs next, or -1 at the end of the cluster.
int next_thread() {
    const int first = launch->order == 0  ? 0
                      : launch->order < 0 ? cluster.count - 1
                                          : int(random_below(cluster.count));
    int next = find_ready(first, launch->order < 0 ? -1 : 1);
    if (next < 0 && launch->order > 0) next = find_ready(0, 1);
    if (next < 0) {
        for (int t = 0; t < cluster.count; ++t)
            if (cluster.threads[t].state != State::exited) fail_deadlock();
        shared_memory_ended();
        return -1;
    }
    ready[next / 64] &= ~(uint64_t(1) << next % 64);
    cluster.current = next;
    if (cluster.blocks > 1) {
        cluster.rank = rank_of(next);
        cluster.first = first_of(next);
        blockIdx.x = cluster.first_block + cluster.rank;
    }
    threadIdx.x = next - cluster.first;
    return next;
}

// A fibre runs whole threads until the next one to run waits on another fibre.
[[noreturn]] void fibre_main() {
    fibre_started(host);
    Fibre *fibre = cluster.threads[cluster.current].fibre;
    for (;;) {
        thread_function(thread_arguments);
        cluster.threads[cluster.current].state = State::exited;
        thread_left();
        const int next = next_thread();
        if (next >= 0 && !cluster.threads[next].fibre) {
            cluster.threads[next].fibre = fibre;
            continue;
        }
        free_fibres[free_fibre_count++] = fibre;
        switch_fibre(*fibre, next < 0 ? host : *cluster.threads[next].fibre, true);
    }
}

Fibre &fibre_of(Thread &thread) {
    if (!thread.fibre) {
        thread.fibre = free_fibres[--free_fibre_count];
        start_fibre(*thread.fibre, fibre_main);
    }
    return *thread.fibre;
}

void run_cluster(unsigned index) {
    cluster.first_block = blockIdx.x = index * cluster.blocks;
    ++cluster.serial;
    for (int t = 0; t < cluster.count; ++t) {
        memset(&cluster.threads[t], 0, sizeof(Thread));
        if (t - first_of(t) < cluster.size)
            make_ready(t);
        else
            cluster.threads[t].state = State::exited;
    }
    start_meetings();
    races_start_cluster();
    switch_fibre(host, fibre_of(cluster.threads[next_thread()]), false);
    free_shared_memory();
}

[[noreturn]] void return_to_host() {
    failed = true;
    switch_fibre(*cluster.threads[cluster.current].fibre, host, true);
    abort();
}

void write_message(const char *format, va_list values) {
    const int used = snprintf(fault->message, sizeof fault->message, "block %u, thread %u: ",
                              blockIdx.x, threadIdx.x);
    vsnprintf(fault->message + used, sizeof fault->message - used, format, values);
}

unsigned long long library_offset(const void *address) {
    Dl_info library;
    if (!dladdr(address, &library)) return 0;
    return static_cast<const char *>(address) - static_cast<const char *>(library.dli_fbase);
}

}  // namespace

int run(const Launch *new_launch, long long launch_bounds, ThreadFunction function,
        const char *arguments, Fault *new_fault) {
    launch = new_launch;
    thread_function = function;
    thread_arguments = arguments;
    fault = new_fault;
    failed = false;
    random_state = launch->order;
    if (launch->threads > launch_bounds) {
        snprintf(fault->message, sizeof fault->message, "expected at most %lld threads, as its "
                 "__launch_bounds__ says, got %lld", launch_bounds, launch->threads);
        return 1;
    }
    cluster.blocks = launch->blocks_of_cluster;
    cluster.size = launch->threads;
    cluster.stride = (cluster.size + WARP - 1) / WARP * WARP;
    cluster.count = (cluster.blocks - 1) * cluster.stride + cluster.size;
    cluster.serial = cluster.rank = cluster.first = 0;
    gridDim = {unsigned(launch->blocks), 1, 1};
    blockDim = {unsigned(launch->threads), 1, 1};
    threadIdx = blockIdx = {0, 0, 0};
    memset(ready, 0, sizeof ready);
    const int alive = cluster.blocks * cluster.size;
    for (free_fibre_count = 0; free_fibre_count < alive; ++free_fibre_count)
        free_fibres[free_fibre_count] = fibre_stack(alive - 1 - free_fibre_count);
    start_shared_memory(*launch);
    races_start(reinterpret_cast<const void *>(function));

    const unsigned clusters = launch->blocks / cluster.blocks;
    unsigned *order = static_cast<unsigned *>(malloc(clusters * sizeof(unsigned)));
    for (unsigned i = 0; i < clusters; ++i) order[i] = i;
    arrange(order, clusters);
    for (unsigned i = 0; i < clusters && !failed; ++i) run_cluster(order[i]);
    free(order);
    if (failed) clean_abandoned_fibres();
    return failed;
}

void make_ready(int thread) {
    cluster.threads[thread].state = State::ready;
    ready[thread / 64] |= uint64_t(1) << thread % 64;
}

void wait_for_turn() {
    Thread &self = cluster.threads[cluster.current];
    Thread &next = cluster.threads[next_thread()];
    if (&next != &self) switch_fibre(*self.fibre, fibre_of(next), false);
}

Name::Name(int thread) {
    const int used = snprintf(text, sizeof text, "thread %d", thread - first_of(thread));
    if (cluster.blocks > 1)
        snprintf(text + used, sizeof text - used, " of block %u",
                 cluster.first_block + rank_of(thread));
}

void trap(Site site) { fail(site, "__trap() was called"); }

void fail(Site site, const char *format, ...) {
    va_list values;
    va_start(values, format);
    write_message(format, values);
    va_end(values);
    fault->file = site.file;
    fault->line = site.line;
    return_to_host();
}

void fail_race(const void *later, const void *earlier, const char *format, ...) {
    va_list values;
    va_start(values, format);
    write_message(format, values);
    va_end(values);
    fault->offsets[0] = library_offset(later);
    fault->offsets[1] = library_offset(earlier);
    return_to_host();
}

}  // namespace cuda_on_cpu
