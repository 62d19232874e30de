// Runs a grid on the host: blocks one after another, in each block one fibre per CUDA thread.
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

Block block;

namespace {

const Launch *launch;
ThreadFunction thread_function;
const char *thread_arguments;
Fault *fault;
bool failed;
uint64_t random_state;

Fibre host;
Fibre *free_fibres[MAX_THREADS];
int free_fibre_count;

uint64_t ready[MAX_THREADS / 64];  // a bit for each thread that waits for nothing but its turn

struct SharedVariable {
    const void *key;
    void *memory;
    size_t bytes;
};

constexpr int MAX_SHARED_VARIABLES = 64;
SharedVariable shared_variables[MAX_SHARED_VARIABLES];
int shared_variable_count;
size_t static_shared_bytes;

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
    for (int t = first; t >= 0 && t < block.size; t += step) {
        const uint64_t word = ready[t / 64];
        if (!word)
            t = step > 0 ? t | 63 : t & ~63;
        else if (word >> (t % 64) & 1)
            return t;
    }
    return -1;
}

// The thread that runs next, or -1 at the end of the block.
int next_thread() {
    const int first = launch->order == 0  ? 0
                      : launch->order < 0 ? block.size - 1
                                          : int(random_below(block.size));
    int next = find_ready(first, launch->order < 0 ? -1 : 1);
    if (next < 0 && launch->order > 0) next = find_ready(0, 1);
    if (next < 0) {
        for (int t = 0; t < block.size; ++t)
            if (block.threads[t].state != State::exited) fail_deadlock();
        return -1;
    }
    ready[next / 64] &= ~(uint64_t(1) << next % 64);
    block.current = next;
    threadIdx.x = next;
    return next;
}

// A fibre runs whole threads until the next one to run waits on another fibre.
[[noreturn]] void fibre_main() {
    fibre_started(host);
    Fibre *fibre = block.threads[block.current].fibre;
    for (;;) {
        thread_function(thread_arguments);
        block.threads[block.current].state = State::exited;
        thread_left();
        const int next = next_thread();
        if (next >= 0 && !block.threads[next].fibre) {
            block.threads[next].fibre = fibre;
            continue;
        }
        free_fibres[free_fibre_count++] = fibre;
        switch_fibre(*fibre, next < 0 ? host : *block.threads[next].fibre, true);
    }
}

Fibre &fibre_of(Thread &thread) {
    if (!thread.fibre) {
        thread.fibre = free_fibres[--free_fibre_count];
        start_fibre(*thread.fibre, fibre_main);
    }
    return *thread.fibre;
}

void free_shared_memory() {
    for (int i = 0; i < shared_variable_count; ++i) {
        races_forget(shared_variables[i].memory, shared_variables[i].bytes);
        free(shared_variables[i].memory);
    }
    shared_variable_count = 0;
    static_shared_bytes = 0;
}

void run_block(long long index) {
    blockIdx.x = index;
    ++block.serial;
    for (int t = 0; t < block.size; ++t) {
        memset(&block.threads[t], 0, sizeof(Thread));
        make_ready(t);
    }
    start_meetings();
    races_start_block();
    switch_fibre(host, fibre_of(block.threads[next_thread()]), false);
    free_shared_memory();
}

[[noreturn]] void return_to_host() {
    failed = true;
    switch_fibre(*block.threads[block.current].fibre, host, true);
    abort();
}

void write_message(const char *format, va_list values) {
    const int used = snprintf(fault->message, sizeof fault->message, "block %u, thread %d: ",
                              blockIdx.x, block.current);
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
    block.size = launch->threads;
    block.serial = 0;
    gridDim = {unsigned(launch->blocks), 1, 1};
    blockDim = {unsigned(launch->threads), 1, 1};
    threadIdx = blockIdx = {0, 0, 0};
    memset(ready, 0, sizeof ready);
    for (free_fibre_count = 0; free_fibre_count < block.size; ++free_fibre_count)
        free_fibres[free_fibre_count] = fibre_stack(block.size - 1 - free_fibre_count);
    races_start(reinterpret_cast<const void *>(function));

    unsigned *order = static_cast<unsigned *>(malloc(launch->blocks * sizeof(unsigned)));
    for (long long i = 0; i < launch->blocks; ++i) order[i] = i;
    arrange(order, unsigned(launch->blocks));
    for (long long i = 0; i < launch->blocks && !failed; ++i) run_block(order[i]);
    free(order);
    if (failed) clean_abandoned_fibres();
    return failed;
}

void make_ready(int thread) {
    block.threads[thread].state = State::ready;
    ready[thread / 64] |= uint64_t(1) << thread % 64;
}

void wait_for_turn() {
    Thread &self = block.threads[block.current];
    Thread &next = block.threads[next_thread()];
    if (&next != &self) switch_fibre(*self.fibre, fibre_of(next), false);
}

namespace {

void *block_memory(const void *key, size_t bytes, size_t alignment, Site site) {
    if (shared_variable_count == MAX_SHARED_VARIABLES)
        fail(site, "more than %d __shared__ variables", MAX_SHARED_VARIABLES);
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes)) abort();
    memset(memory, 0xFF, bytes);
    shared_variables[shared_variable_count++] = {key, memory, bytes};
    return memory;
}

void *known_memory(const void *key) {
    for (int i = 0; i < shared_variable_count; ++i)
        if (shared_variables[i].key == key) return shared_variables[i].memory;
    return nullptr;
}

}  // namespace

void *shared_memory(const void *key, size_t bytes, size_t alignment, Site site) {
    if (void *memory = known_memory(key)) return memory;
    static_shared_bytes += bytes;
    if (static_shared_bytes > size_t(launch->static_limit))
        fail(site, "the block's shared memory grows to %zu bytes, the device allows %lld",
             static_shared_bytes, launch->static_limit);
    // dynamic memory takes its room whether or not it is touched
    const size_t all = static_shared_bytes + size_t(launch->dynamic_bytes);
    if (all > size_t(launch->shared_limit))
        fail(site, "the block's shared memory grows to %zu bytes, %lld of them dynamic, the device "
             "allows %lld", all, launch->dynamic_bytes, launch->shared_limit);
    return block_memory(key, bytes, alignment, site);
}

void *dynamic_shared_memory() {
    static const char key = 0;
    void *memory = known_memory(&key);
    return memory ? memory : block_memory(&key, launch->dynamic_bytes, 128, Site{nullptr, 0});
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
