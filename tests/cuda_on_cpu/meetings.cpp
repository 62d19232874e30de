// Where CUDA threads wait for each other: block barriers, and the meetings of a warp's lanes
// (__syncwarp, votes, shuffles, products).
#include "scheduler.h"

namespace cuda_on_cpu {

namespace {

int at_barrier;       // threads that wait at it
int true_at_barrier;  // those of them that brought a true predicate
unsigned running[MAX_THREADS / WARP];  // lanes of each warp that have not left the kernel
unsigned waiting[MAX_THREADS / WARP];  // lanes of each warp that wait in a meeting of it
Barrier barrier_kind;
Site barrier_site;

const char *place(const Thread &thread) {
    if (thread.state == State::at_barrier) return "__syncthreads";
    return thread.call == WarpCall::sync      ? "__syncwarp"
           : thread.call == WarpCall::vote    ? "a warp vote"
           : thread.call == WarpCall::shuffle ? "a warp shuffle"
                                              : "a warp's product";
}

bool same_meeting(const Thread &a, const Thread &b) {
    return a.state == State::in_warp && b.state == State::in_warp && a.call == b.call &&
           a.mask == b.mask;
}

// The lanes of `thread`'s mask that have not left the kernel.
unsigned expected_lanes(int warp, const Thread &thread) {
    return running[warp / WARP] & thread.mask;
}

void take_shuffled_value(int warp, int lane, unsigned present) {
    Thread &self = block.threads[warp + lane];
    if (!(present >> self.source & 1))
        fail(self.site, "lane %d of warp %d shuffles from lane %d, which %s (mask 0x%08x)", lane,
             warp / WARP, self.source,
             self.mask >> self.source & 1 ? "is not running" : "is not in its mask", self.mask);
    self.result = block.threads[warp + self.source].value;
}

bool same_site(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || __builtin_strcmp(a.file, b.file) == 0);
}

void multiply(int warp, const Thread &first, unsigned present) {
    Product *lanes[WARP];
    for (int lane = 0; lane < WARP; ++lane) {
        const Thread &thread = block.threads[warp + lane];
        if (!(present >> lane & 1))
            fail(first.site, "a product takes all lanes of a warp, but lane %d of warp %d is not "
                 "running", lane, warp / WARP);
        if (!same_site(thread.site, first.site))
            fail(first.site, "a product takes all lanes of a warp, but lane %d of warp %d is in "
                 "another, at %s:%d", lane, warp / WARP, thread.site.file, thread.site.line);
        lanes[lane] = reinterpret_cast<Product *>(thread.value);
    }
    compute_products(lanes);
}

// End the meeting that `first` waits in, if every lane that it needs has come.
void end_meeting(const Thread &first) {
    const int warp = int(&first - block.threads) / WARP * WARP;
    const unsigned lanes = expected_lanes(warp, first);
    if (lanes & ~waiting[warp / WARP]) return;
    unsigned ballot = 0;
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        if (!same_meeting(block.threads[warp + lane], first)) return;
        if (block.threads[warp + lane].value) ballot |= 1u << lane;
    }
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        block.threads[warp + lane].result = ballot;
        if (first.call == WarpCall::shuffle) take_shuffled_value(warp, lane, lanes);
    }
    if (first.call == WarpCall::product) multiply(warp, first, lanes);
    // As on a GPU, votes, shuffles and products do not order accesses to memory; __syncwarp does.
    if (first.call == WarpCall::sync) races_warp_barrier(warp, lanes);
    waiting[warp / WARP] &= ~lanes;
    for (int lane = 0; lane < WARP; ++lane)
        if (lanes >> lane & 1) make_ready(warp + lane);
}

}  // namespace

void start_meetings() {
    at_barrier = 0;
    for (int warp = 0; warp < block.size; warp += WARP) {
        const int lanes = block.size - warp;
        running[warp / WARP] = lanes < WARP ? (1u << lanes) - 1 : ~0u;
        waiting[warp / WARP] = 0;
    }
}

int block_barrier(Barrier kind, bool predicate, Site site) {
    Thread &self = block.threads[block.current];
    self.state = State::at_barrier;
    self.site = site;
    if (at_barrier == 0) {
        barrier_kind = kind;
        barrier_site = site;
        true_at_barrier = 0;
    } else if (kind != barrier_kind || !same_site(site, barrier_site)) {
        fail(site, "divergent barrier: other threads of the block wait in __syncthreads at %s:%d",
             barrier_site.file, barrier_site.line);
    }
    true_at_barrier += predicate;
    if (++at_barrier == block.size) {
        const int result = kind == Barrier::count ? true_at_barrier
                           : kind == Barrier::all ? true_at_barrier == block.size
                                                  : true_at_barrier > 0;
        at_barrier = 0;
        races_block_barrier();
        for (int t = 0; t < block.size; ++t) {
            block.threads[t].result = result;
            make_ready(t);
        }
    }
    wait_for_turn();
    return self.result;
}

unsigned long long warp_meeting(WarpCall call, unsigned mask, unsigned long long value, int source,
                                Site site) {
    Thread &self = block.threads[block.current];
    self.state = State::in_warp;
    self.site = site;
    self.call = call;
    self.mask = mask;
    self.value = value;
    self.source = source;
    const int lane = block.current % WARP;
    if (!(mask >> lane & 1))
        fail(site, "lane %d is not in its own mask 0x%08x of %s", lane, mask, place(self));
    waiting[block.current / WARP] |= 1u << lane;
    end_meeting(self);
    wait_for_turn();
    return self.result;
}

void warp_product(float (&d)[4], const Factors (&factors)[3], int count, Site site) {
    Product product = {d, factors, count};
    warp_meeting(WarpCall::product, 0xffffffffu, reinterpret_cast<unsigned long long>(&product), 0,
                 site);
}

// Lanes that are gone are not waited for.
void thread_left() {
    const int warp = block.current / WARP;
    running[warp] &= ~(1u << block.current % WARP);
    for (int lane = 0; lane < WARP && waiting[warp]; ++lane)
        if (waiting[warp] >> lane & 1) end_meeting(block.threads[warp * WARP + lane]);
}

void fail_deadlock() {
    const Thread *threads = block.threads;
    for (int t = 0; t < block.size; ++t) {
        if (threads[t].state != State::in_warp) continue;
        const int warp = t / WARP * WARP;
        const unsigned lanes = expected_lanes(warp, threads[t]);
        for (int lane = 0; lane < WARP; ++lane) {
            const Thread &late = threads[warp + lane];
            if ((lanes >> lane & 1) && !same_meeting(late, threads[t]))
                fail(threads[t].site,
                     "deadlock: thread %d waits in %s with mask 0x%08x for thread %d, which waits "
                     "in %s at %s:%d", t, place(threads[t]), threads[t].mask, warp + lane,
                     place(late), late.site.file, late.site.line);
        }
    }
    int waiting = 0, gone = 0;
    while (threads[waiting].state != State::at_barrier) ++waiting;
    while (threads[gone].state != State::exited) ++gone;
    fail(threads[waiting].site,
         "divergent barrier: thread %d waits in __syncthreads, but thread %d has left the kernel",
         waiting, gone);
}

}  // namespace cuda_on_cpu
