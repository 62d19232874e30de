// Keeps a device busy while the host queues work behind it, so that what is timed has no gaps:
//
//   wait until `cycles` cycles of the multiprocessor's clock have gone by
//
// Launch: one block of one thread.

extern "C" __global__ void wait(long long cycles) {
    const long long start = clock64();
    while (clock64() - start < cycles) {
    }
}
