"""Ahead-of-time compilation of a Triton kernel to a GPU's machine code, without a GPU, and what that code costs.

Belongs here: compiling one kernel and reading registers, spills, shared memory and instructions from it. Does not belong: which
kernels and configurations there are (kernels/configurations.py). Not in a process whose Triton interprets.
"""

import re
import subprocess
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"


@dataclass(frozen=True)
class Cost:
    """What a compiled kernel takes: registers a thread, bytes spilled, bytes of shared memory, instructions in all and in loops.

    `loop_instructions` counts innermost loops once each; `loop_exps` counts the ex2 among them.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: int
    loop_instructions: int
    loop_exps: int


def compile_cost(kernel: Any, signature: Mapping[str, str], constants: Mapping[str, Any], num_warps: int, arch: int) -> Cost:
    """Compile for sm_<arch>; fp fusion is asked for, since Triton's default changes. Sizes are taken as multiples of 16."""
    names = kernel.arg_names
    divisible = {(i,): [["tt.divisibility", 16]] for i, name in enumerate(names) if signature.get(name, "").startswith("*")}
    source = ASTSource(
        kernel,
        signature={name: signature.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs=divisible,
    )
    options = {"num_warps": num_warps, "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        sass = _run("nvdisasm", "-c", file.name)
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    lines = _instructions(sass)
    loops = _innermost_loops(lines)
    inside = [text for start, end in loops for text in lines[start:end] if not text.endswith(":")]
    return Cost(
        registers=found["REG"],
        spill_bytes=found["STACK"] + found["LOCAL"] + 4 * sum("STL" in text or "LDL" in text for text in lines),
        shared_bytes=compiled.metadata.shared,
        instructions=sum(not text.endswith(":") for text in lines),
        loop_instructions=len(inside),
        loop_exps=sum("MUFU.EX2" in text for text in inside),
    )


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout  # noqa: S603


def _instructions(sass: str) -> list[str]:
    """Return the instructions and labels (`.L_x_1:`) of a listing, in order."""
    lines = (line.strip() for line in sass.splitlines())
    return [line for line in lines if re.match(r"(\.L_x_\d+:|/\*[0-9a-f]{4,}\*/)", line) and " NOP" not in line]


def _innermost_loops(lines: list[str]) -> list[tuple[int, int]]:
    """Return (first, after last) of every backward branch's span that holds no other, except a kernel's final trap loop."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    spans = []
    for i, line in enumerate(lines):
        target = re.search(r"BRA.*(\.L_x_\d+)", line)
        if target and labels.get(target[1], i) < i - 1:
            spans.append((labels[target[1]], i + 1))
    return [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
