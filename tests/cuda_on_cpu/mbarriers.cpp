// Barriers in shared memory (cuda_kernels/mbarrier.cuh): threads arrive, others wait for a phase.
#include "scheduler.h"

namespace cuda_on_cpu {

namespace {

struct Mbarrier {
    const void *place;
    int arrivals;  // that complete a phase
    int missing;   // of the one that lasts
    int parity;    // of that one
};

constexpr int MOST = 1024;
Mbarrier mbarriers[MOST];
int count;

// Its number.
int find(const void *place, const char *what, Site site) {
    for (int i = 0; i < count; ++i)
        if (mbarriers[i].place == place) return i;
    fail(site, "%s an mbarrier that was not initialised", what);
}

}  // namespace

void start_mbarriers() { count = 0; }

void mbarrier_init(const void *place, int arrivals, Site site) {
    if (arrivals < 1) fail(site, "expected an mbarrier of at least one arrival, got %d", arrivals);
    int i = 0;
    while (i < count && mbarriers[i].place != place) ++i;
    if (i == MOST) fail(site, "expected at most %d mbarriers", MOST);
    if (i == count) ++count;
    mbarriers[i] = {place, arrivals, arrivals, 0};
    races_start_mbarrier(i);
}

void mbarrier_arrive(const void *place, Site site) {
    const int i = find(place, "arrives at", site);
    Mbarrier &barrier = mbarriers[i];
    races_arrive(i, barrier.parity);
    if (--barrier.missing > 0) return;
    barrier.missing = barrier.arrivals;
    barrier.parity ^= 1;
    races_begin_phase(i, barrier.parity);
    for (int t = 0; t < cluster.count; ++t)
        if (cluster.threads[t].state == State::at_mbarrier && cluster.threads[t].source == i) make_ready(t);
}

void mbarrier_wait(const void *place, int parity, Site site) {
    const int i = find(place, "waits at", site);
    Thread &self = cluster.threads[cluster.current];
    while (mbarriers[i].parity == parity) {
        self.state = State::at_mbarrier;
        self.site = site;
        self.source = i;
        wait_for_turn();
    }
    races_wait(i, parity);
}

void fail_for_mbarriers() {
    for (int t = 0; t < cluster.count; ++t) {
        const Thread &thread = cluster.threads[t];
        if (thread.state == State::at_mbarrier)
            fail(thread.site, "deadlock: %s waits at an mbarrier for %d more of %d arrivals", Name(t).text,
                 mbarriers[thread.source].missing, mbarriers[thread.source].arrivals);
    }
}

}  // namespace cuda_on_cpu
