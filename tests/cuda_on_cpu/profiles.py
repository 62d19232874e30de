"""The GPUs that launch code is planned for: one of each generation, as its vendor describes it."""

from gpucnn.backends.cuda.runtime import DeviceProfile

KIB = 1024


def _profile(name, capability, multiprocessors, shared, threads, gigabytes, megahertz):
    """`shared` is a block's limit in KiB; the system keeps another one from sm_80 on."""
    system = 1 if capability >= (8, 0) else 0
    return DeviceProfile(
        name, capability, multiprocessors, dynamic_shared_bytes=shared * KIB,
        shared_bytes_of_multiprocessor=(shared + system) * KIB, threads_of_multiprocessor=threads,
        bandwidth=gigabytes * 1e9, clock=megahertz * 1e6)


# architecture -> profile. Clocks are the highest that the card is sold with.
PROFILES = {
    "sm_75": _profile("Tesla T4", (7, 5), 40, 64, 1024, 320, 1590),
    "sm_80": _profile("A100-SXM4-40GB", (8, 0), 108, 163, 2048, 1555, 1410),
    "sm_86": _profile("GeForce RTX 3090", (8, 6), 82, 99, 1536, 936, 1695),
    "sm_89": _profile("GeForce RTX 4090", (8, 9), 128, 99, 1536, 1008, 2520),
    "sm_90": _profile("H100 SXM", (9, 0), 132, 227, 2048, 3350, 1980),
    "sm_100": _profile("B200", (10, 0), 148, 227, 2048, 8000, 1965),
    "sm_120": _profile("GeForce RTX 5090", (12, 0), 170, 99, 1536, 1792, 2407),
}
