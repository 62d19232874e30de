// Fibres: one stack each, switched by a few instructions on x86-64 and by ucontext elsewhere.
#include "scheduler.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#if !defined(__x86_64__) || defined(CUDA_ON_CPU_UCONTEXT)
#include <ucontext.h>
#endif

#ifdef CUDA_ON_CPU_ADDRESS
extern "C" {
void __sanitizer_start_switch_fiber(void **fake_stack, const void *bottom, size_t size);
void __sanitizer_finish_switch_fiber(void *fake_stack, const void **bottom, size_t *size);
void __asan_unpoison_memory_region(const volatile void *memory, size_t size);
}
#endif

namespace cuda_on_cpu {

namespace {

constexpr size_t STACK_BYTES = 256 * 1024;
Fibre stacks[MAX_ALIVE];

}  // namespace

const char *fibres_begin = nullptr, *fibres_end = nullptr;

Fibre *fibre_stack(int index) {
    const size_t page = sysconf(_SC_PAGESIZE), stride = page + STACK_BYTES;
    if (!fibres_begin) {
        void *memory = mmap(nullptr, MAX_ALIVE * stride, PROT_NONE,
                            MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
        if (memory == MAP_FAILED) abort();
        fibres_begin = static_cast<char *>(memory);
        fibres_end = fibres_begin + MAX_ALIVE * stride;
    }
    Fibre &fibre = stacks[index];
    if (!fibre.bottom) {
        char *start = const_cast<char *>(fibres_begin) + index * stride;
        fibre.bottom = start + page;  // below it no access is allowed: an overflow faults
        if (mprotect(fibre.bottom, STACK_BYTES, PROT_READ | PROT_WRITE)) abort();
        fibre.size = STACK_BYTES;
    }
    return &fibre;
}

#if defined(__x86_64__) && !defined(CUDA_ON_CPU_UCONTEXT)

// Save the registers that a function must keep, change stacks, and return on the other one.
extern "C" void cuda_on_cpu_switch(void **save, void *load);
asm(R"(
    .text
    .hidden cuda_on_cpu_switch
    .globl cuda_on_cpu_switch
    .type cuda_on_cpu_switch, @function
cuda_on_cpu_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size cuda_on_cpu_switch, . - cuda_on_cpu_switch
)");

void start_fibre(Fibre &fibre, void (*entry)()) {
    void **top = reinterpret_cast<void **>(static_cast<char *>(fibre.bottom) + fibre.size);
    *--top = nullptr;  // where `entry` would return to
    *--top = reinterpret_cast<void *>(entry);
    for (int saved_register = 0; saved_register < 6; ++saved_register) *--top = nullptr;
    fibre.pointer = top;
}

static void change_stack(Fibre &from, Fibre &to) { cuda_on_cpu_switch(&from.pointer, to.pointer); }

#else

static ucontext_t *context(Fibre &fibre) {
    if (!fibre.pointer) fibre.pointer = calloc(1, sizeof(ucontext_t));
    return static_cast<ucontext_t *>(fibre.pointer);
}

void start_fibre(Fibre &fibre, void (*entry)()) {
    ucontext_t *start = context(fibre);
    getcontext(start);
    start->uc_stack.ss_sp = fibre.bottom;
    start->uc_stack.ss_size = fibre.size;
    makecontext(start, entry, 0);
}

static void change_stack(Fibre &from, Fibre &to) { swapcontext(context(from), context(to)); }

#endif

#ifdef CUDA_ON_CPU_ADDRESS

void switch_fibre(Fibre &from, Fibre &to, bool leaving_for_good) {
    __sanitizer_start_switch_fiber(leaving_for_good ? nullptr : &from.fake_stack, to.bottom,
                                   to.size);
    change_stack(from, to);
    __sanitizer_finish_switch_fiber(from.fake_stack, nullptr, nullptr);
}

void fibre_started(Fibre &host) {
    const void *bottom;
    size_t size;
    __sanitizer_finish_switch_fiber(nullptr, &bottom, &size);
    if (!host.bottom) {  // the first fibre of a launch is started by the host
        host.bottom = const_cast<void *>(bottom);
        host.size = size;
    }
}

// Fibres that a fault left in the middle of a kernel have red zones on their stacks.
void clean_abandoned_fibres() {
    for (Fibre &fibre : stacks)
        if (fibre.bottom) __asan_unpoison_memory_region(fibre.bottom, fibre.size);
}

#else

void switch_fibre(Fibre &from, Fibre &to, bool) { change_stack(from, to); }
void fibre_started(Fibre &) {}
void clean_abandoned_fibres() {}

#endif

}  // namespace cuda_on_cpu
