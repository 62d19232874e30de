// A data race detector for one launch: the "thread" variant.
//
// g++ -fsanitize=thread makes a kernel call __tsan_read4(address) and its kin before each access
// to memory. Here these are answered with CUDA's rules: two accesses to a byte, one of them a
// write and not both atomic, are a race unless they are of one thread, of two threads of a block
// with __syncthreads between them, of two lanes of a warp with __syncwarp between them, of two
// blocks of a cluster with cluster_barrier between them, or of two threads of a block of which one has
// waited for a phase of an mbarrier that the other has arrived for. What ran first does not matter, so one
// order of the threads shows the races of all. Shuffles, votes, atomics and fences order nothing,
// and blocks of different clusters are never ordered: a kernel in which the last block adds up what
// the others wrote is reported. So are threads that write the same value.
//
// Each four bytes of memory have a cell: who wrote it last and who read it since. Barriers of whole blocks and
// warps let two readers stand for all. What an mbarrier orders is a thread at a time, so where a kernel has one all
// readers are kept.
#include "scheduler.h"

#ifdef CUDA_ON_CPU_THREAD

#include <stdlib.h>
#include <string.h>

namespace cuda_on_cpu {

namespace {

struct Access {
    uint32_t cluster;  // its serial, 0 for no access
    uint32_t clock;    // the thread's, at the access
    uint16_t thread;
    bool atomic;
    int32_t code;      // return address, counted from the launch's anchor
};

// Readers of a kernel with mbarriers that are ordered after neither of a cell's first two; each thread once.
struct Readers {
    int count, room;
    Access list[];
};

struct Cell {
    Access writer;
    Access readers[2];  // two that are not ordered stand for all of them, unless there are more
    Readers *more;
    Cell *bytes;        // a cell for each byte, once parts of the four bytes were accessed
};

constexpr uintptr_t PAGE = 4096;
constexpr uintptr_t CELLS = PAGE / 4;

struct Page {
    uintptr_t number;
    Cell cells[CELLS];
};

// A thread's clocks: its own, those at its last barriers with its block and with its cluster, and
// the newest clock of each lane of its warp that it is ordered after.
struct Clocks {
    uint32_t own, barrier, cluster_barrier, seen[WARP];
};

Clocks clocks[MAX_ALIVE];
// Where a kernel has mbarriers: the newest clock of each thread of the block, by its number there, that a thread is
// ordered after; and of each mbarrier, by parity, those that its phase's arrivals are ordered after, themselves
// among them.
using Vector = uint32_t[MAX_THREADS];
Vector *acquired;
Vector (*arrived)[2];
int mbarrier_count, mbarrier_room;

const char *anchor;
Page **table;  // open addressing by page number
size_t table_size, page_count;
Page *last_page;

size_t slot_of(uintptr_t number) {
    size_t slot = (number * 0x9E3779B97F4A7C15u) >> 20 & (table_size - 1);
    while (table[slot] && table[slot]->number != number) slot = (slot + 1) & (table_size - 1);
    return slot;
}

void grow_table() {
    Page **old = table;
    const size_t old_size = table_size;
    table_size = old_size ? 2 * old_size : 1024;
    table = static_cast<Page **>(calloc(table_size, sizeof(Page *)));
    for (size_t i = 0; i < old_size; ++i)
        if (old[i]) table[slot_of(old[i]->number)] = old[i];
    free(old);
}

Page *find_page(uintptr_t number, bool make) {
    if (last_page && last_page->number == number) return last_page;
    if (make && 2 * page_count >= table_size) grow_table();
    if (!table_size) return nullptr;
    Page *&page = table[slot_of(number)];
    if (!page) {
        if (!make) return nullptr;
        page = static_cast<Page *>(calloc(1, sizeof(Page)));
        page->number = number;
        ++page_count;
    }
    return last_page = page;
}

void free_parts(Cell &cell) {
    for (int i = 0; cell.bytes && i < 4; ++i) free(cell.bytes[i].more);
    free(cell.bytes);
    free(cell.more);
}

void clear(Cell &cell) {
    free_parts(cell);
    memset(&cell, 0, sizeof cell);
}

void free_pages() {
    for (size_t i = 0; i < table_size; ++i) {
        if (!table[i]) continue;
        for (Cell &cell : table[i]->cells) free_parts(cell);
        free(table[i]);
        table[i] = nullptr;
    }
    page_count = 0;
    last_page = nullptr;
}

bool of_running_block(int thread) {
    return unsigned(thread - cluster.first) < unsigned(cluster.size);
}

// Whether the running thread knows that `access` came before.
bool ordered(const Access &access) {
    if (access.cluster != cluster.serial) return access.cluster == 0;
    if (access.thread == cluster.current) return true;
    if (!of_running_block(access.thread))
        return access.clock <= clocks[access.thread].cluster_barrier;
    if (access.clock <= clocks[access.thread].barrier) return true;
    if (mbarrier_count && access.clock <= acquired[cluster.current][access.thread - cluster.first]) return true;
    return access.thread / WARP == cluster.current / WARP &&
           access.clock <= clocks[cluster.current].seen[access.thread % WARP];
}

void join(Vector &into, const Vector &other) {
    for (int t = 0; t < cluster.size; ++t)
        if (other[t] > into[t]) into[t] = other[t];
}

struct Kind {
    bool write, atomic;
};

const char *name_of(Kind kind) {
    return kind.atomic ? "atomic access" : kind.write ? "write" : "read";
}

[[noreturn]] void fail_on(const Access &earlier, Kind earlier_kind, Kind kind, const char *code) {
    const int index = earlier.thread - first_of(earlier.thread);
    const bool alive = earlier.cluster == cluster.serial;
    if (alive && !of_running_block(earlier.thread))
        fail_race(code, anchor + earlier.code, "data race: %s here is not ordered after the %s by "
                  "%s", name_of(kind), name_of(earlier_kind), Name(earlier.thread).text);
    fail_race(code, anchor + earlier.code, "data race: %s here is not ordered after the %s by "
              "thread %d of %s block", name_of(kind), name_of(earlier_kind), index,
              alive ? "this" : "another");
}

// Whether a new reader, ordered after neither of two others, takes the second one's place. Two of
// different blocks are ordered by no block barrier, two of different warps by no __syncwarp, so
// those are kept.
bool replaces_second(const Access *readers) {
    const int first = readers[0].thread, second = readers[1].thread;
    if (first / WARP == second / WARP) return true;
    return cluster.blocks > 1 && rank_of(first) == rank_of(second) &&
           rank_of(cluster.current) != rank_of(first);
}

size_t bytes_of(int readers) { return sizeof(Readers) + readers * sizeof(Access); }

// Keep the running thread's read beside two that it is not ordered after. Nothing is ordered after a read by another
// cluster, which so stands for all.
void keep_reader(Cell &cell, const Access &self) {
    if (cell.readers[0].cluster != cluster.serial) return;
    const int count = cell.more ? cell.more->count : 0;
    for (int i = 0; i < count; ++i)
        if (cell.more->list[i].thread == self.thread) {
            cell.more->list[i] = self;
            return;
        }
    if (!cell.more || count == cell.more->room) {
        const int room = 2 * count + 4;
        cell.more = static_cast<Readers *>(realloc(cell.more, bytes_of(room)));
        cell.more->room = room;
    }
    cell.more->list[count] = self;
    cell.more->count = count + 1;
}

void visit(Cell &cell, Kind kind, const char *code) {
    if (!ordered(cell.writer) && !(kind.atomic && cell.writer.atomic))
        fail_on(cell.writer, {true, cell.writer.atomic}, kind, code);
    const Access self = {cluster.serial, clocks[cluster.current].own,
                         uint16_t(cluster.current), kind.atomic, int32_t(code - anchor)};
    Access *readers = cell.readers;
    if (kind.write) {
        for (int i = 0; i < 2; ++i)
            if (!ordered(readers[i])) fail_on(readers[i], {false, false}, kind, code);
        for (int i = 0; cell.more && i < cell.more->count; ++i)
            if (!ordered(cell.more->list[i])) fail_on(cell.more->list[i], {false, false}, kind, code);
        cell.writer = self;
        readers[0].cluster = readers[1].cluster = 0;
        if (cell.more) cell.more->count = 0;
    } else if (ordered(readers[0])) {
        readers[0] = self;
    } else if (ordered(readers[1])) {
        readers[1] = self;
    } else if (mbarrier_count) {
        keep_reader(cell, self);
    } else if (replaces_second(readers)) {
        readers[1] = self;
    }
}

void visit_part(Cell &cell, uintptr_t first, uintptr_t last, Kind kind, const char *code) {
    if (!cell.bytes) {
        cell.bytes = static_cast<Cell *>(malloc(4 * sizeof(Cell)));
        for (int i = 0; i < 4; ++i) {
            Cell &byte = cell.bytes[i];
            byte = cell;
            byte.bytes = nullptr;
            if (!cell.more) continue;
            byte.more = static_cast<Readers *>(malloc(bytes_of(cell.more->room)));
            memcpy(byte.more, cell.more, bytes_of(cell.more->count));
        }
    }
    for (uintptr_t i = first; i < last; ++i) visit(cell.bytes[i], kind, code);
}

void access(const void *memory, uintptr_t bytes, Kind kind, const void *code) {
    const char *first = static_cast<const char *>(memory);
    if (!cluster.serial || (first >= fibres_begin && first < fibres_end)) return;
    uintptr_t address = reinterpret_cast<uintptr_t>(memory);
    const uintptr_t end = address + bytes;
    while (address < end) {
        Cell &cell = find_page(address / PAGE, true)->cells[address % PAGE / 4];
        const uintptr_t start = address & ~uintptr_t(3);
        const uintptr_t stop = end < start + 4 ? end : start + 4;
        const char *here = static_cast<const char *>(code);
        if (cell.bytes || stop - address < 4)
            visit_part(cell, address - start, stop - start, kind, here);
        else
            visit(cell, kind, here);
        address = stop;
    }
}

}  // namespace

void races_start(const void *function) {
    anchor = static_cast<const char *>(function);
    free_pages();
}

void races_start_cluster() {
    memset(clocks, 0, cluster.count * sizeof(Clocks));
    for (int t = 0; t < cluster.count; ++t) clocks[t].own = 1;
    mbarrier_count = 0;
}

void races_forget(const void *memory, size_t bytes) {
    uintptr_t address = reinterpret_cast<uintptr_t>(memory) & ~uintptr_t(3);
    const uintptr_t end = reinterpret_cast<uintptr_t>(memory) + bytes;
    for (; address < end; address += 4)
        if (Page *page = find_page(address / PAGE, false)) clear(page->cells[address % PAGE / 4]);
}

void races_block_barrier() {
    const int first = cluster.first, end = first + cluster.size;
    for (int t = first; t < end; ++t) clocks[t].barrier = clocks[t].own++;
}

void races_cluster_barrier() {
    for (int t = 0; t < cluster.count; ++t)
        clocks[t].cluster_barrier = clocks[t].barrier = clocks[t].own++;
}

void races_warp_barrier(int warp, unsigned lanes) {
    uint32_t joined[WARP] = {};
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        Clocks &thread = clocks[warp + lane];
        thread.seen[lane] = thread.own++;
        for (int i = 0; i < WARP; ++i)
            if (thread.seen[i] > joined[i]) joined[i] = thread.seen[i];
    }
    for (int lane = 0; lane < WARP; ++lane)
        if (lanes >> lane & 1)
            memcpy(clocks[warp + lane].seen, joined, sizeof joined);
    if (!mbarrier_count) return;
    Vector all = {};
    for (int lane = 0; lane < WARP; ++lane)
        if (lanes >> lane & 1) join(all, acquired[warp + lane]);
    for (int lane = 0; lane < WARP; ++lane)
        if (lanes >> lane & 1) memcpy(acquired[warp + lane], all, sizeof all);
}

void races_start_mbarrier(int number) {
    if (!acquired) acquired = static_cast<Vector *>(malloc(MAX_ALIVE * sizeof(Vector)));
    if (!mbarrier_count)
        for (int t = 0; t < cluster.count; ++t) memset(acquired[t], 0, sizeof(Vector));
    if (number >= mbarrier_room) {
        mbarrier_room = 2 * number + 16;
        arrived = static_cast<Vector(*)[2]>(realloc(arrived, mbarrier_room * sizeof *arrived));
    }
    if (number >= mbarrier_count) mbarrier_count = number + 1;
    memset(arrived[number], 0, sizeof *arrived);
}

void races_arrive(int number, int parity) {
    Clocks &self = clocks[cluster.current];
    Vector &phase = arrived[number][parity];
    const int me = cluster.current - cluster.first, warp = me / WARP * WARP;
    join(phase, acquired[cluster.current]);
    for (int lane = 0; lane < WARP && warp + lane < cluster.size; ++lane)
        if (self.seen[lane] > phase[warp + lane]) phase[warp + lane] = self.seen[lane];
    phase[me] = self.own++;
}

void races_begin_phase(int number, int parity) { memset(arrived[number][parity], 0, sizeof(Vector)); }

void races_wait(int number, int parity) { join(acquired[cluster.current], arrived[number][parity]); }

void atomic_access(const void *memory, int bytes, const void *code) {
    access(memory, bytes, {true, true}, code);
}

void write_access(const void *memory, int bytes, const void *code) {
    access(memory, bytes, {true, false}, code);
}

void read_access(const void *memory, int bytes, const void *code) {
    access(memory, bytes, {false, false}, code);
}

}  // namespace cuda_on_cpu

#define HOOK(name, bytes, write)                                                          \
    extern "C" CUDA_ON_CPU_EXPORT void name(void *memory) {                               \
        cuda_on_cpu::access(memory, bytes, {write, false}, __builtin_return_address(0)); \
    }
#define HOOKS(bytes)                                 \
    HOOK(__tsan_read##bytes, bytes, false)           \
    HOOK(__tsan_write##bytes, bytes, true)           \
    HOOK(__tsan_unaligned_read##bytes, bytes, false) \
    HOOK(__tsan_unaligned_write##bytes, bytes, true)
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
#define RANGE_HOOK(name, write)                                                           \
    extern "C" CUDA_ON_CPU_EXPORT void name(void *memory, unsigned long bytes) {          \
        cuda_on_cpu::access(memory, bytes, {write, false}, __builtin_return_address(0)); \
    }
RANGE_HOOK(__tsan_read_range, false)
RANGE_HOOK(__tsan_write_range, true)
extern "C" CUDA_ON_CPU_EXPORT void __tsan_init() {}

#else

namespace cuda_on_cpu {
void races_start(const void *) {}
void races_start_cluster() {}
void races_forget(const void *, size_t) {}
void races_block_barrier() {}
void races_cluster_barrier() {}
void races_warp_barrier(int, unsigned) {}
void races_start_mbarrier(int) {}
void races_arrive(int, int) {}
void races_begin_phase(int, int) {}
void races_wait(int, int) {}
void atomic_access(const void *, int, const void *) {}
void write_access(const void *, int, const void *) {}
void read_access(const void *, int, const void *) {}
}  // namespace cuda_on_cpu

#endif
