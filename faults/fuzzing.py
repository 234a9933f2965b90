"""Row 32: every parser of the ingest, fed what a sound file becomes when bits flip and pieces go, come twice or are others.

Each parser runs in a process of its own with a bound on memory. What must hold: it reads the file or raises one of our own
errors; it neither dies nor hangs, and writes nothing. A finding names parser and number: the same number gives the same bytes.
"""

import contextlib
import multiprocessing
import random
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from multiprocessing.connection import Connection
from multiprocessing.context import ForkServerProcess
from multiprocessing.sharedctypes import Synchronized
from pathlib import Path

from faults.report import Found, Trial, say
from faults.seeds import Parser, parsers
from feature_store.errors import MiceError

PROCESSES = multiprocessing.get_context("forkserver")
MOST_BYTES = 6 << 30  # of address space, most of which numeric libraries only reserve
HANG_S = 30.0
MOST_FINDINGS = 20
# What parsers stumble over: ends, signs, brackets, encodings, numbers at the edge of their type.
TOKENS = (
    *(b"\0", b"\n", b"\r\n", b'"', b"'", b",", b"\t", b";", b"{", b"}", b"[", b"]", b":", b"#", b"%", b"..", b"/", b"\\"),
    *(b"\xff", b"\xef\xbb\xbf", b"\xfe\xff", "\u2010".encode(), "\u202e".encode(), b"NaN", b"-inf", b"1e999", b"-1", b"0"),
    *(b"9" * 40, b"\xff\xff\xff\xff", b"\xff\xff\xff\x7f", b"\x00\x00\x00\x80", b"\xff" * 8, b"&a [*a]", b"!!python/object:x"),
)


def fuzzed_parsers(trial: Trial) -> Found:
    """Row 32. `times` is seconds for each parser: 60 by default, 3,600 for an hour."""
    seconds = float(trial.times or trial.pick(2, 60))
    found = Found(dict.fromkeys(("parsers", "inputs", "read", "refused", "crashes", "hangs", "untyped", "outside_writes"), 0))
    for parser in parsers(trial.folder / "seeds"):
        found.add("parsers")
        before = _files(trial.folder)
        _fuzz(parser, trial.folder / "inputs" / parser.name, seconds, found)
        outside = _files(trial.folder) - before
        found.add("outside_writes", len(outside))
        found.expect(not outside, f"{parser.name}: wrote {sorted(outside)[:3]}")
        say(f"row 32: {parser.name}, {found.counts['inputs']} inputs so far")
    return found


def mutated(data: bytes, rng: random.Random) -> bytes:
    """Return `data` after one to eight changes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(changed) + 1)
        size = min(rng.choice((1, 2, 4, 16, 64, 1024)), len(changed) - at)
        match rng.randrange(7):
            case 0 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 1:
                changed[at : at + size] = rng.randbytes(size)
            case 2:
                del changed[at : at + size]
            case 3:
                changed[at:at] = changed[at : at + size] * rng.choice((1, 2, 50))
            case 4:
                changed[at:at] = rng.choice(TOKENS)
            case 5:
                changed[at : at + size] = rng.choice(TOKENS)
            case _:
                del changed[at : None if rng.random() < 0.3 else at + 1]
    return bytes(changed)


@dataclass
class _Shared:
    """What parent and child both see: the input under way, when it began, when all is over (0: not yet known), and counts."""

    number: Synchronized
    began: Synchronized
    end: Synchronized
    read: Synchronized
    refused: Synchronized


def _fuzz(parser: Parser, folder: Path, seconds: float, found: Found) -> None:
    """Feed one parser until its time is over; a child that died or hung is followed by another, after the input it was at."""
    folder.mkdir(parents=True)
    shared = _Shared(*(PROCESSES.Value(kind, 0) for kind in "qddqq"))
    num_findings = 0
    while not 0 < shared.end.value < time.monotonic() and num_findings < MOST_FINDINGS:
        with _child(parser, folder, shared, seconds) as (process, findings):
            while process.is_alive() and not (is_hung := 0 < shared.began.value < time.monotonic() - HANG_S):
                process.join(0.1)
            with contextlib.suppress(EOFError):  # the end, once it is reached
                while findings.poll():
                    found.problems.append(findings.recv())
                    found.add("untyped")
                    num_findings += 1
            if process.exitcode == 0:
                break
            kind = "hangs" if is_hung else "crashes"
            found.add(kind)
            num_findings += 1
            found.problems.append(f"{parser.name}, input {shared.number.value}: {kind} ({process.exitcode})")
            shared.number.value += 1
            shared.began.value = 0.0
    for path in folder.iterdir():
        if path.name in {seed.name for seed in parser.seeds}:
            path.unlink()  # the input at which a child ended
    found.expect(shared.number.value > 0, f"{parser.name}: no input was fed")
    found.add("inputs", shared.number.value)
    found.add("read", shared.read.value)
    found.add("refused", shared.refused.value)


@contextlib.contextmanager
def _child(parser: Parser, folder: Path, shared: _Shared, seconds: float) -> Iterator[tuple[ForkServerProcess, Connection]]:
    ours, theirs = PROCESSES.Pipe(duplex=False)
    process = PROCESSES.Process(target=_feed, args=(parser, folder, shared, seconds, theirs))
    process.start()
    theirs.close()
    try:
        yield process, ours
    finally:
        process.kill()
        process.join()
        ours.close()


def _feed(parser: Parser, folder: Path, shared: _Shared, seconds: float, findings: Connection) -> None:
    """Read input after input, beginning with the number after the last that was finished."""
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    read: Callable[[Path], object] = parser.read
    seeds = [(path.name, path.read_bytes()) for path in parser.seeds]
    shared.end.value = shared.end.value or time.monotonic() + seconds
    while time.monotonic() < shared.end.value:
        rng = random.Random(f"{parser.name} {shared.number.value}")
        name, data = rng.choice(seeds)
        path = folder / name
        path.write_bytes(mutated(data, rng))
        shared.began.value = time.monotonic()
        try:
            read(path)
            shared.read.value += 1
        except MiceError:
            shared.refused.value += 1
        except MemoryError:
            findings.send(f"{parser.name}, input {shared.number.value} ({name}): more than {MOST_BYTES >> 30} GiB")
        except BaseException as error:  # noqa: BLE001 - what is looked for
            findings.send(f"{parser.name}, input {shared.number.value} ({name}): {type(error).__name__}: {str(error)[:160]}")
        shared.began.value = 0.0
        shared.number.value += 1
        path.unlink()


def _files(folder: Path) -> set[str]:
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}
