"""What launch code knows of a device, `DeviceProfile`, and of a kernel, `KernelResources`."""

from dataclasses import dataclass

# Numbers of cudaDeviceAttr. Clocks are asked for in this way because CUDA 13 took them out of the
# structure of a device's properties; the numbers are part of CUDA's binary interface.
_CLOCK_KILOHERTZ = 13
_MEMORY_CLOCK_KILOHERTZ = 36
_MEMORY_BUS_BITS = 37
_THREADS_OF_MULTIPROCESSOR = 39
_SHARED_BYTES_OF_MULTIPROCESSOR = 81
_REGISTERS_OF_MULTIPROCESSOR = 82
_DYNAMIC_SHARED_BYTES = 97


@dataclass(frozen=True)
class DeviceProfile:
    """What a kernel's launch code needs to know about its device.

    `shared_bytes` is the shared memory a block may have without asking: all that it declares
    statically. `dynamic_shared_bytes` is the most it may have, static and dynamic together, when
    the launch asks for it. `max_blocks` is the largest grid that is launched: kernels loop over
    what is left. What a multiprocessor has decides how many blocks it runs at once. `bandwidth`
    is that of the device's memory in bytes a second and `clock` the multiprocessors' in Hz, each
    0 if unknown. `software` names the versions of driver and compiler, for people.
    """

    name: str
    compute_capability: tuple[int, int]
    multiprocessors: int
    shared_bytes: int = 48 * 1024
    max_blocks: int = 2**20
    software: str = ""
    dynamic_shared_bytes: int = 48 * 1024
    shared_bytes_of_multiprocessor: int = 64 * 1024
    registers_of_multiprocessor: int = 65536
    threads_of_multiprocessor: int = 1024
    bandwidth: float = 0.0
    clock: float = 0.0


@dataclass(frozen=True)
class KernelResources:
    """What a compiled kernel takes: `registers` and `local_bytes` (spills, arrays that are indexed
    as the kernel runs) of each thread, `static_shared_bytes` of each block."""

    registers: int
    local_bytes: int
    static_shared_bytes: int


def cupy_profile(cupy, index, software):
    """The profile of GPU `index`; what its driver does not tell keeps its default."""
    properties = cupy.cuda.runtime.getDeviceProperties(index)

    def ask(attribute):
        try:
            return max(0, cupy.cuda.runtime.deviceGetAttribute(attribute, index))
        except cupy.cuda.runtime.CUDARuntimeError:  # unknown to this driver
            return 0

    # two transfers in each clock, as all graphics memory since DDR has
    bandwidth = 2 * 1000 * ask(_MEMORY_CLOCK_KILOHERTZ) * ask(_MEMORY_BUS_BITS) / 8
    told = {"dynamic_shared_bytes": ask(_DYNAMIC_SHARED_BYTES),
            "shared_bytes_of_multiprocessor": ask(_SHARED_BYTES_OF_MULTIPROCESSOR),
            "registers_of_multiprocessor": ask(_REGISTERS_OF_MULTIPROCESSOR),
            "threads_of_multiprocessor": ask(_THREADS_OF_MULTIPROCESSOR),
            "bandwidth": bandwidth, "clock": 1000.0 * ask(_CLOCK_KILOHERTZ)}
    return DeviceProfile(
        name=properties["name"].decode(),
        compute_capability=(properties["major"], properties["minor"]),
        multiprocessors=properties["multiProcessorCount"],
        software=software, **{name: value for name, value in told.items() if value})
