"""Ahead-of-time compilation of what a call would launch, without a GPU, and what the machine code costs.

Belongs here: recording launches, compiling them, reading registers, spills, shared memory and instructions. Does not belong:
which calls are compiled and what they may cost (benchmarks/compiled_kernels.py). Not in a process whose Triton interprets.
"""

import re
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import triton
from torch import Tensor
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource

_TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_POINTERS = {
    torch.float32: "*fp32", torch.float16: "*fp16", torch.bfloat16: "*bf16",
    torch.int64: "*i64", torch.int32: "*i32", torch.int8: "*i8",
}  # fmt: skip
_OPTIONS = ("num_warps", "maxnreg")


@dataclass(frozen=True)
class Launch:
    """One kernel as a call would launch it: argument types and constants, by name."""

    kernel: Any
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    divisible: tuple[str, ...]
    options: tuple[tuple[str, int], ...]

    @property
    def num_warps(self) -> int:
        """Return warps of a program."""
        return dict(self.options).get("num_warps", 4)


@dataclass(frozen=True)
class Cost:
    """What a compiled kernel takes: registers a thread, spilled bytes (its stack), bytes of shared memory.

    `instructions`, in all and in innermost loops (counted once each), are None unless asked for.
    """

    registers: int
    spill_bytes: int
    shared_bytes: int
    instructions: int | None
    loop_instructions: int | None


@contextmanager
def recorded_launches() -> Iterator[list[Launch]]:
    """Yield a list of the distinct launches that calls inside would make; nothing is run, so their outputs are not to be read."""
    launches: list[Launch] = []
    kernel_type = triton.runtime.jit.JITFunction
    run = kernel_type.run

    def record(self: Any, *args: Any, **kwargs: Any) -> None:
        options = {name: kwargs.pop(name) for name in _OPTIONS if name in kwargs}
        named = dict(zip(self.arg_names, args, strict=False)) | {k: v for k, v in kwargs.items() if k in self.arg_names}
        tensors = {name: _POINTERS[v.dtype] for name, v in named.items() if isinstance(v, Tensor)}
        constants = {p.name: named[p.name] for p in self.params if p.is_constexpr}
        shared = {p.name for p in self.params if p.do_not_specialize}
        sizes = {name: "i32" for name in named if name not in tensors and name not in constants}
        divisible = [*tensors, *(name for name in sizes if named[name] % 16 == 0 and name not in shared)]
        signature, sorted_constants = tuple((tensors | sizes).items()), tuple(constants.items())
        launch = Launch(self, signature, sorted_constants, tuple(divisible), tuple(options.items()))
        if launch not in launches:
            launches.append(launch)

    kernel_type.run = record
    try:
        yield launches
    finally:
        kernel_type.run = run


def compile_cost(launch: Launch, arch: int, disassemble: bool) -> Cost:
    """Compile for sm_<arch>, as the launcher would; fp fusion is asked for, since Triton's default changes.

    Disassembly, which the counts of instructions need, takes 0.6 s a kernel, more than compiling most.
    """
    names, types, constants = launch.kernel.arg_names, dict(launch.signature), dict(launch.constants)
    source = ASTSource(
        launch.kernel,
        signature={name: types.get(name, "constexpr") for name in names},
        constexprs={(names.index(name),): value for name, value in constants.items()},
        attrs={(names.index(name),): [["tt.divisibility", 16]] for name in launch.divisible},
    )
    options = {**dict(launch.options), "enable_fp_fusion": True}
    compiled = triton.compile(source, target=GPUTarget("cuda", arch, 32), options=options)
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(compiled.asm["cubin"])
        file.flush()
        usage = _run("cuobjdump", "-res-usage", file.name)
        lines = _instructions(_run("nvdisasm", "-c", file.name)) if disassemble else []
    found = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    inside = [text for start, end in _innermost_loops(lines) for text in lines[start:end] if not text.endswith(":")]
    return Cost(
        registers=found["REG"],
        spill_bytes=found["STACK"] + found["LOCAL"],
        shared_bytes=compiled.metadata.shared,
        instructions=sum(not text.endswith(":") for text in lines) if disassemble else None,
        loop_instructions=len(inside) if disassemble else None,
    )


def _run(tool: str, *arguments: str) -> str:
    return subprocess.run([_TOOLS / tool, *arguments], check=True, capture_output=True, text=True).stdout  # noqa: S603


def _instructions(sass: str) -> list[str]:
    """Return the instructions and labels (`.L_x_1:`) of a listing, in order."""
    lines = (line.strip() for line in sass.splitlines())
    return [line for line in lines if re.match(r"(\.L_x_\d+:|/\*[0-9a-f]{4,}\*/)", line) and " NOP" not in line]


def _innermost_loops(lines: list[str]) -> list[tuple[int, int]]:
    """Return (first, after last) of every backward branch's span that holds no other, without a kernel's final trap loop."""
    labels = {line[:-1]: i for i, line in enumerate(lines) if line.endswith(":")}
    spans = []
    for i, line in enumerate(lines):
        target = re.search(r"BRA.*(\.L_x_\d+)", line)
        if target and labels.get(target[1], i) < i - 1:
            spans.append((labels[target[1]], i + 1))
    return [a for a in spans if not any(a != b and a[0] <= b[0] and b[1] <= a[1] for b in spans)]
