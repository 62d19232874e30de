// What the parts of one scheduler library share: fibres.cpp, scheduler.cpp, shared_memory.cpp,
// meetings.cpp, mbarriers.cpp, products.cpp and races.cpp.
#pragma once

#include "launch.h"

#include <stdint.h>

namespace cuda_on_cpu {

// A stack that code can be left on and taken up again (fibres.cpp).
struct Fibre {
    void *pointer = nullptr;     // saved stack pointer, or a ucontext
    void *bottom = nullptr;      // lowest address of the stack
    size_t size = 0;
    void *fake_stack = nullptr;  // of the address sanitizer
};

Fibre *fibre_stack(int index);
void start_fibre(Fibre &fibre, void (*entry)());
void fibre_started(Fibre &host);  // the first call of every `entry`
void switch_fibre(Fibre &from, Fibre &to, bool leaving_for_good);
void clean_abandoned_fibres();
extern const char *fibres_begin, *fibres_end;  // all of their stacks

enum class State : uint8_t { ready, at_barrier, at_cluster_barrier, at_mbarrier, in_warp, exited };

constexpr int MAX_ALIVE = MAX_BLOCKS_OF_CLUSTER * MAX_THREADS;

// One CUDA thread.
struct Thread {
    State state;
    bool predicate;  // that it brought to the block barrier
    Fibre *fibre;
    Site site;       // where it waits
    // the meeting of its warp that it waits for
    WarpCall call;
    unsigned mask;
    int source;      // of a shuffle; or the number of the mbarrier that it waits for
    unsigned long long value, result;
};

// The blocks that are alive together: a cluster, which for most kernels is a single block. Their
// threads lie one block behind the other, each block's from a multiple of a warp on.
struct Cluster {
    Thread threads[MAX_ALIVE];
    int blocks;
    int size;             // threads of a block
    int stride;           // from a block's first thread to the next one's
    int count;            // from the first thread of all to behind the last one
    uint32_t serial;      // 1 for the first cluster of a launch to run
    unsigned first_block;  // blockIdx.x of its first one
    int current;          // the thread that is running
    int rank, first;      // its block in the cluster, and that block's first thread
};
extern Cluster cluster;

inline int rank_of(int thread) { return cluster.blocks == 1 ? 0 : thread / cluster.stride; }
inline int first_of(int thread) { return rank_of(thread) * cluster.stride; }

// A thread's name in messages: its number, and its block where several are alive.
struct Name {
    char text[40];
    explicit Name(int thread);
};

// The scheduler (scheduler.cpp).
void make_ready(int thread);
void wait_for_turn();  // let others run until the current thread is ready and its turn comes
[[noreturn]] void fail(Site site, const char *format, ...) __attribute__((format(printf, 2, 3)));
[[noreturn]] void fail_race(const void *later, const void *earlier, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

// Shared memory (shared_memory.cpp).
void start_shared_memory(const Launch &launch);
void free_shared_memory();
void shared_memory_met();    // the cluster has met
void shared_memory_ended();  // all of its threads have left the kernel

// Meetings of threads (meetings.cpp).
void start_meetings();
void thread_left();                  // the current thread has left the kernel
[[noreturn]] void fail_deadlock();   // no thread is ready, and some wait

// Barriers in shared memory (mbarriers.cpp).
void start_mbarriers();
void fail_for_mbarriers();  // if a thread waits for one

// Products of small matrices (products.cpp).
struct Product {
    float *d;
    const Factors *factors;
    int count;
};
void compute_products(Product *const (&lanes)[WARP]);

// The race detector (races.cpp); these do nothing in the other variants.
void races_start(const void *anchor);
void races_start_cluster();
void races_forget(const void *memory, size_t bytes);
void races_block_barrier();  // of the running block
void races_cluster_barrier();
void races_warp_barrier(int warp, unsigned lanes);
// Of an mbarrier, by its number: the running thread arrives for a phase or has waited for one; one begins.
void races_start_mbarrier(int number);
void races_arrive(int number, int parity);
void races_begin_phase(int number, int parity);
void races_wait(int number, int parity);

}  // namespace cuda_on_cpu
