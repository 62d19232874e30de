// Shared memory: what each block of the cluster has of it, and writes into another block's.
#include "scheduler.h"

#include <stdlib.h>
#include <string.h>

namespace cuda_on_cpu {

namespace {

struct Variable {
    const void *key;
    char *memory;
    size_t bytes, alignment;
};

constexpr int MAX_VARIABLES = 64;
struct Memory {
    Variable variables[MAX_VARIABLES];
    int count;
    size_t static_bytes;
    // the last write into it by another block since the cluster met
    bool written;
    Site written_at;
    int written_by;
};

Memory memories[MAX_BLOCKS_OF_CLUSTER];
const Launch *launch;
bool has_met;  // the cluster has: all of its blocks run
const char dynamic_key = 0;

void *new_memory(Memory &block, const void *key, size_t bytes, size_t alignment, Site site) {
    if (block.count == MAX_VARIABLES)
        fail(site, "more than %d __shared__ variables", MAX_VARIABLES);
    void *memory = nullptr;
    if (posix_memalign(&memory, alignment, bytes)) abort();
    memset(memory, 0xFF, bytes);
    block.variables[block.count++] = {key, static_cast<char *>(memory), bytes, alignment};
    return memory;
}

void *memory_of(Memory &block, const void *key, size_t bytes, size_t alignment, Site site) {
    for (int i = 0; i < block.count; ++i)
        if (block.variables[i].key == key) return block.variables[i].memory;
    if (key != &dynamic_key) {
        block.static_bytes += bytes;
        if (block.static_bytes > size_t(launch->static_limit))
            fail(site, "the block's shared memory grows to %zu bytes, the device allows %lld",
                 block.static_bytes, launch->static_limit);
        // dynamic memory takes its room whether or not it is touched
        const size_t all = block.static_bytes + size_t(launch->dynamic_bytes);
        if (all > size_t(launch->shared_limit))
            fail(site, "the block's shared memory grows to %zu bytes, %lld of them dynamic, the "
                 "device allows %lld", all, launch->dynamic_bytes, launch->shared_limit);
    }
    return new_memory(block, key, bytes, alignment, site);
}

// The variable in which `bytes` bytes from `here` on lie, or null.
const Variable *variable_at(const Memory &block, const char *here, size_t bytes) {
    for (int i = 0; i < block.count; ++i) {
        const Variable &variable = block.variables[i];
        if (here >= variable.memory && here + bytes <= variable.memory + variable.bytes)
            return &variable;
    }
    return nullptr;
}

}  // namespace

void start_shared_memory(const Launch &new_launch) {
    launch = &new_launch;
    has_met = false;
}

void free_shared_memory() {
    for (int rank = 0; rank < cluster.blocks; ++rank) {
        Memory &block = memories[rank];
        for (int i = 0; i < block.count; ++i) {
            races_forget(block.variables[i].memory, block.variables[i].bytes);
            free(block.variables[i].memory);
        }
        block.count = 0;
        block.static_bytes = 0;
        block.written = false;
    }
    has_met = false;
}

void shared_memory_met() {
    has_met = true;
    for (int rank = 0; rank < cluster.blocks; ++rank) memories[rank].written = false;
}

void shared_memory_ended() {
    for (int rank = 0; rank < cluster.blocks; ++rank) {
        const Memory &block = memories[rank];
        if (block.written)
            fail(block.written_at, "%s writes into the shared memory of block %u, which may have "
                 "ended: a cluster_barrier is missing behind", Name(block.written_by).text,
                 cluster.first_block + rank);
    }
}

void *shared_memory(const void *key, size_t bytes, size_t alignment, Site site) {
    return memory_of(memories[cluster.rank], key, bytes, alignment, site);
}

void *dynamic_shared_memory() {
    return memory_of(memories[cluster.rank], &dynamic_key, launch->dynamic_bytes, 128,
                     Site{nullptr, 0});
}

void *memory_of_block(const void *place, size_t bytes, int rank, Site site) {
    const char *here = static_cast<const char *>(place);
    if (rank < 0 || rank >= cluster.blocks)
        fail(site, "store_to_block: expected a rank of 0 to %d, got %d", cluster.blocks - 1, rank);
    const Variable *variable = variable_at(memories[cluster.rank], here, bytes);
    if (!variable)
        fail(site, "store_to_block: expected a place of %zu bytes in the block's shared memory, "
             "got one that is not all in it", bytes);
    if ((here - variable->memory) % bytes)
        fail(site, "store_to_block: expected a place of %zu bytes at a multiple of that, got a "
             "misaligned one", bytes);
    char *start = static_cast<char *>(memory_of(memories[rank], variable->key, variable->bytes,
                                                variable->alignment, site));
    if (rank != cluster.rank) {
        if (!has_met)
            fail(site, "store_to_block: block %u may not have begun: a cluster_barrier is missing "
                 "before", cluster.first_block + rank);
        Memory &block = memories[rank];
        block.written = true;
        block.written_at = site;
        block.written_by = cluster.current;
    }
    return start + (here - variable->memory);
}

}  // namespace cuda_on_cpu
