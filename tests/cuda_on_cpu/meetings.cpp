// Where CUDA threads wait for each other: barriers of a block or a cluster, and the meetings of a
// warp's lanes (__syncwarp, votes, shuffles, products).
#include "scheduler.h"

namespace cuda_on_cpu {

namespace {

struct BlockBarrier {
    int arrived;       // threads that wait at it
    int true_arrived;  // those of them that brought a true predicate
    Barrier kind;
    Site site;
};
BlockBarrier barriers[MAX_BLOCKS_OF_CLUSTER];
int at_cluster_barrier;  // threads of all blocks
Site cluster_barrier_site;
unsigned running[MAX_ALIVE / WARP];  // lanes of each warp that have not left the kernel
unsigned waiting[MAX_ALIVE / WARP];  // lanes of each warp that wait in a meeting of it

const char *place(const Thread &thread) {
    if (thread.state == State::at_barrier) return "__syncthreads";
    if (thread.state == State::at_cluster_barrier) return "cluster_barrier";
    if (thread.state == State::at_mbarrier) return "wait";
    return thread.call == WarpCall::sync      ? "__syncwarp"
           : thread.call == WarpCall::vote    ? "a warp vote"
           : thread.call == WarpCall::shuffle ? "a warp shuffle"
                                              : "a warp's product";
}

bool same_meeting(const Thread &a, const Thread &b) {
    return a.state == State::in_warp && b.state == State::in_warp && a.call == b.call &&
           a.mask == b.mask;
}

// A warp's number in its block.
int number_of(int warp) { return (warp - first_of(warp)) / WARP; }

// The lanes of `thread`'s mask that have not left the kernel.
unsigned expected_lanes(int warp, const Thread &thread) {
    return running[warp / WARP] & thread.mask;
}

void take_shuffled_value(int warp, int lane, unsigned present) {
    Thread &self = cluster.threads[warp + lane];
    if (!(present >> self.source & 1))
        fail(self.site, "lane %d of warp %d shuffles from lane %d, which %s (mask 0x%08x)", lane,
             number_of(warp), self.source,
             self.mask >> self.source & 1 ? "is not running" : "is not in its mask", self.mask);
    self.result = cluster.threads[warp + self.source].value;
}

bool same_site(Site a, Site b) {
    return a.line == b.line && (a.file == b.file || __builtin_strcmp(a.file, b.file) == 0);
}

void multiply(int warp, const Thread &first, unsigned present) {
    Product *lanes[WARP];
    for (int lane = 0; lane < WARP; ++lane) {
        const Thread &thread = cluster.threads[warp + lane];
        if (!(present >> lane & 1))
            fail(first.site, "a product takes all lanes of a warp, but lane %d of warp %d is not "
                 "running", lane, number_of(warp));
        if (!same_site(thread.site, first.site))
            fail(first.site, "a product takes all lanes of a warp, but lane %d of warp %d is in "
                 "another, at %s:%d", lane, number_of(warp), thread.site.file, thread.site.line);
        lanes[lane] = reinterpret_cast<Product *>(thread.value);
    }
    compute_products(lanes);
}

// End the meeting that `first` waits in, if every lane that it needs has come.
void end_meeting(const Thread &first) {
    const int warp = int(&first - cluster.threads) / WARP * WARP;
    const unsigned lanes = expected_lanes(warp, first);
    if (lanes & ~waiting[warp / WARP]) return;
    unsigned ballot = 0;
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        if (!same_meeting(cluster.threads[warp + lane], first)) return;
        if (cluster.threads[warp + lane].value) ballot |= 1u << lane;
    }
    for (int lane = 0; lane < WARP; ++lane) {
        if (!(lanes >> lane & 1)) continue;
        cluster.threads[warp + lane].result = ballot;
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
    for (BlockBarrier &barrier : barriers) barrier.arrived = 0;
    at_cluster_barrier = 0;
    start_mbarriers();
    for (int warp = 0; warp < cluster.count; warp += WARP) {
        const int lanes = cluster.size - (warp - first_of(warp));
        running[warp / WARP] = lanes < WARP ? (1u << lanes) - 1 : ~0u;
        waiting[warp / WARP] = 0;
    }
}

int block_barrier(Barrier kind, bool predicate, Site site) {
    Thread &self = cluster.threads[cluster.current];
    BlockBarrier &barrier = barriers[cluster.rank];
    self.state = State::at_barrier;
    self.site = site;
    if (barrier.arrived == 0) {
        barrier = {0, 0, kind, site};
    } else if (kind != barrier.kind || !same_site(site, barrier.site)) {
        fail(site, "divergent barrier: other threads of the block wait in __syncthreads at %s:%d",
             barrier.site.file, barrier.site.line);
    }
    barrier.true_arrived += predicate;
    if (++barrier.arrived == cluster.size) {
        const int result = kind == Barrier::count ? barrier.true_arrived
                           : kind == Barrier::all ? barrier.true_arrived == cluster.size
                                                  : barrier.true_arrived > 0;
        barrier.arrived = 0;
        races_block_barrier();
        const int first = cluster.first, end = first + cluster.size;
        for (int t = first; t < end; ++t) {
            cluster.threads[t].result = result;
            make_ready(t);
        }
    }
    wait_for_turn();
    return self.result;
}

int rank_in_cluster() { return cluster.rank; }

void meet_cluster(Site site) {
    Thread &self = cluster.threads[cluster.current];
    self.state = State::at_cluster_barrier;
    self.site = site;
    if (at_cluster_barrier == 0)
        cluster_barrier_site = site;
    else if (!same_site(site, cluster_barrier_site))
        fail(site, "divergent barrier: other threads of the cluster wait in cluster_barrier at "
             "%s:%d", cluster_barrier_site.file, cluster_barrier_site.line);
    if (++at_cluster_barrier == cluster.blocks * cluster.size) {
        at_cluster_barrier = 0;
        races_cluster_barrier();
        shared_memory_met();
        for (int t = 0; t < cluster.count; ++t)
            if (cluster.threads[t].state == State::at_cluster_barrier) make_ready(t);
    }
    wait_for_turn();
}

unsigned long long warp_meeting(WarpCall call, unsigned mask, unsigned long long value, int source,
                                Site site) {
    Thread &self = cluster.threads[cluster.current];
    self.state = State::in_warp;
    self.site = site;
    self.call = call;
    self.mask = mask;
    self.value = value;
    self.source = source;
    const int lane = cluster.current % WARP;
    if (!(mask >> lane & 1))
        fail(site, "lane %d is not in its own mask 0x%08x of %s", lane, mask, place(self));
    waiting[cluster.current / WARP] |= 1u << lane;
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
    const int warp = cluster.current / WARP;
    running[warp] &= ~(1u << cluster.current % WARP);
    for (int lane = 0; lane < WARP && waiting[warp]; ++lane)
        if (waiting[warp] >> lane & 1) end_meeting(cluster.threads[warp * WARP + lane]);
}

namespace {

// Fail if lanes of a warp wait in different places.
void fail_for_warps() {
    const Thread *threads = cluster.threads;
    for (int t = 0; t < cluster.count; ++t) {
        if (threads[t].state != State::in_warp) continue;
        const int warp = t / WARP * WARP;
        const unsigned lanes = expected_lanes(warp, threads[t]);
        for (int lane = 0; lane < WARP; ++lane) {
            const Thread &late = threads[warp + lane];
            if ((lanes >> lane & 1) && !same_meeting(late, threads[t]))
                fail(threads[t].site,
                     "deadlock: %s waits in %s with mask 0x%08x for %s, which waits in %s at %s:%d",
                     Name(t).text, place(threads[t]), threads[t].mask, Name(warp + lane).text,
                     place(late), late.site.file, late.site.line);
        }
    }
}

// Fail if of the threads from `first` on, `count` of them, one waits at a barrier of theirs, in
// `state`, and another one does not come there.
void fail_for_barrier(State state, int first, int count) {
    const Thread *threads = cluster.threads;
    int waiting = -1, gone = -1, elsewhere = -1;
    for (int t = first + count - 1; t >= first; --t) {
        if (t - first_of(t) >= cluster.size) continue;
        (threads[t].state == state            ? waiting
         : threads[t].state == State::exited ? gone
                                             : elsewhere) = t;
    }
    if (waiting < 0) return;
    const Thread &thread = threads[waiting];
    if (gone >= 0)
        fail(thread.site, "divergent barrier: %s waits in %s, but %s has left the kernel",
             Name(waiting).text, place(thread), Name(gone).text);
    if (elsewhere >= 0)
        fail(thread.site, "divergent barrier: %s waits in %s, but %s waits in %s at %s:%d",
             Name(waiting).text, place(thread), Name(elsewhere).text, place(threads[elsewhere]),
             threads[elsewhere].site.file, threads[elsewhere].site.line);
}

}  // namespace

void fail_deadlock() {
    fail_for_warps();
    for (int rank = 0; rank < cluster.blocks; ++rank)
        fail_for_barrier(State::at_barrier, rank * cluster.stride, cluster.size);
    fail_for_barrier(State::at_cluster_barrier, 0, cluster.count);
    fail_for_mbarriers();
    __builtin_unreachable();
}

}  // namespace cuda_on_cpu
