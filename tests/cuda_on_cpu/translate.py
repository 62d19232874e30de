"""Rewrite CUDA C++ so that g++ compiles it: shared memory, and a launch function per kernel.

`__shared__ float tile[A][B];` becomes a reference to memory of the block's own, made by the
scheduler. That memory has exactly the variable's size, so that a sanitizer sees overruns, and is
filled with 0xFF, so that unwritten values are NaN. Everything else is left to cuda_on_cpu.h.
Lines stay where they are.
"""

import re

from gpucnn.errors import KernelError

_COMMENT = re.compile(r'("(?:\\.|[^"\\\n])*")|//[^\n]*|/\*.*?\*/', re.DOTALL)
_SHARED = re.compile(
    r"""(?P<extern>\bextern\s+)?\b__shared__\s+
        (?:(?:alignas|__align__)\s*\((?P<alignment>[^()]*)\)\s*)?
        (?P<type>[^;{}=\[\]]*[\s*&>])
        (?P<name>\w+)\s*
        (?P<extents>(?:\[(?:[^][;{}]|\[[^][;{}]*\])*\]\s*)*);""", re.VERBOSE)
_LINE = re.compile(r'#line (\d+) "([^"]*)"')
_REAL = re.compile(r"\busing\s+real\s*=\s*(\w+)\s*;")

_LAUNCH = """
static void cuda_on_cpu_thread_{name}(const char *arguments) {{
    cuda_on_cpu::call({name}, arguments);
}}
extern "C" CUDA_ON_CPU_EXPORT int launch_{name}(
    const cuda_on_cpu::Launch *launch, const char *arguments, cuda_on_cpu::Fault *fault) {{
    return cuda_on_cpu::run(launch, {bounds}, cuda_on_cpu_thread_{name}, arguments, fault);
}}
"""


def translated(source, kernels):
    """C++ for the host from CUDA C++ `source`, with a launch function for each of `kernels`."""
    text = _COMMENT.sub(_without_comment, source)
    text = _SHARED.sub(_shared_variable, text)
    left = re.search(r"\b__shared__\b", text)
    if left:
        raise KernelError(f"{_place(text, left.start())}: expected __shared__ memory as "
                          f"`__shared__ type name[sizes];`, one variable in each declaration")
    if not text.startswith("#line"):
        text = '#line 1 "source"\n' + text
    launchers = "".join(_LAUNCH.format(name=name, bounds=_launch_bounds(text, name))
                        for name in kernels)
    return f'#include "cuda_on_cpu.h"\n{text}\n#line 1 "launchers"{launchers}'


def real_type(source):
    """What `real` stands for in `source`: "float" or "double"."""
    match = _REAL.search(source)
    return match.group(1) if match else "float"


def _without_comment(match):
    return match.group(1) or " " + "\n" * match.group().count("\n")


def _shared_variable(match):
    name = match["name"]
    if "," in re.sub(r"<[^<>]*>", "", match["type"]):
        return match.group()
    kind = match["type"].strip()
    alignment = match["alignment"] or "1"
    lines = "\n" * match.group().count("\n")
    if match["extern"]:
        return (f"{kind} *{name} = static_cast<{kind} *>(cuda_on_cpu::dynamic_shared_memory());"
                f"{lines}")
    extents = " ".join(match["extents"].split())
    return (f"typedef {kind} {name}_shared_type{extents}; static char {name}_shared_key; "
            f"{name}_shared_type &{name} = cuda_on_cpu::shared<{name}_shared_type>("
            f"&{name}_shared_key, {alignment}, cuda_on_cpu::here());{lines}")


def _launch_bounds(text, kernel):
    match = re.search(rf"__launch_bounds__\s*\(([^(),]*)[^()]*\)\s+(?:\w+\s*\([^()]*\)\s+)*"
                      rf"{kernel}\s*\(", text)
    return match.group(1) if match else "cuda_on_cpu::MAX_THREADS"


def _place(text, position):
    """The file and line of a position in a text with `#line` directives."""
    file, line = "source", 0
    for row in text[:position].split("\n"):
        directive = _LINE.match(row)
        if directive:
            line, file = int(directive.group(1)) - 1, directive.group(2)
        else:
            line += 1
    return f"{file}:{line}"
