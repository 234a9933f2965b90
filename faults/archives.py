"""Row 20: archives that would write outside their target, through links, over each other, or more than any disk holds."""

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path

from faults.children import answered
from faults.report import Found, Trial
from feature_store.archives import unpack
from feature_store.errors import ArchiveError

MOST_MB = 256  # what refusing an archive may take beyond a process that has the library loaded
MOST_S = 30.0
Make = Callable[[Path], None]


def hostile_archives(trial: Trial) -> Found:
    """Row 20."""
    makers = {**_tars(trial), **_zips(trial)}
    found = Found({"archives": len(makers), "refused": 0, "outside": 0})
    most_mb = most_s = 0.0
    for name, make in makers.items():
        folder = trial.folder / name
        folder.mkdir()
        archive = folder / "archive"
        make(archive)
        before = _paths(trial.folder)
        answer = answered(_unpack, archive, folder / "target")
        written = sorted(_paths(trial.folder) - before)
        most_mb, most_s = max(most_mb, answer.took_mb), max(most_s, answer.seconds)
        is_refused = answer.text.startswith("archive") and not written
        found.add("refused", int(is_refused))
        found.add("outside", len(written))
        found.expect(is_refused, f"{name}: {answer.text[:200]}; left {written[:3]}")
        is_bounded = answer.took_mb < MOST_MB and answer.seconds < MOST_S
        found.expect(is_bounded, f"{name}: took {answer.seconds:.1f} s and {answer.took_mb:.0f} MB")
        archive.unlink()
    found.counts |= {"most_memory_mb": round(most_mb), "longest_s": round(most_s, 1)}
    whole = trial.folder / "whole"
    _tar_of(_info("a/b.txt", size=7))(trial.folder / "whole.tgz")
    is_unpacked = unpack(trial.folder / "whole.tgz", whole) == 2 and (whole / "a/b.txt").read_bytes() == bytes(7)
    found.expect(is_unpacked, "an archive that is as it should be was not unpacked")
    return found


def _paths(folder: Path) -> set[str]:
    """Return what lies in the trial's folder, where `..` and links lead to."""
    return {str(path) for path in folder.rglob("*")}


def _info(name: str, kind: bytes = tarfile.REGTYPE, link: str = "", size: int = 0) -> tarfile.TarInfo:
    made = tarfile.TarInfo(name)
    made.type, made.linkname, made.size = kind, link, size
    return made


def _tar_of(*infos: tarfile.TarInfo) -> Make:
    def make(path: Path) -> None:
        with tarfile.open(path, "w:gz", format=tarfile.PAX_FORMAT) as tar:
            for info in (_info("before.txt", size=4), *infos):
                tar.addfile(info, io.BytesIO(bytes(info.size)))

    return make


def _bomb(num_bytes: int, path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(_info("zeros", size=num_bytes).tobuf())
        for _ in range(num_bytes >> 24):
            stream.write(bytes(1 << 24))


def _header_bomb(num_bytes: int, path: Path) -> None:
    """A name that is as long as a disk."""
    with gzip.open(path, "wb", compresslevel=9) as stream:
        stream.write(_info("././@LongLink", tarfile.GNUTYPE_LONGNAME, size=num_bytes).tobuf())
        for _ in range(num_bytes >> 24):
            stream.write(b"x" * (1 << 24))


def _many(num_entries: int, path: Path) -> None:
    with gzip.open(path, "wb", compresslevel=1) as stream:
        for number in range(num_entries):
            stream.write(_info(f"entry-{number}").tobuf())


def _cut(path: Path) -> None:
    _tar_of(_info("long.bin", size=100_000))(path)
    path.write_bytes(path.read_bytes()[:-40])


def _tars(trial: Trial) -> dict[str, Make]:
    return {
        "tar-parent": _tar_of(_info("../outside.txt", size=4)),
        "tar-parent-inside": _tar_of(_info("a/../../outside.txt", size=4)),
        "tar-absolute": _tar_of(_info(f"{trial.folder}/outside.txt", size=4)),
        "tar-symlink": _tar_of(_info("link", tarfile.SYMTYPE, ".."), _info("link/outside.txt", size=4)),
        "tar-hardlink": _tar_of(_info("link", tarfile.LNKTYPE, "/etc/passwd")),
        "tar-device": _tar_of(_info("device", tarfile.CHRTYPE)),
        "tar-fifo": _tar_of(_info("fifo", tarfile.FIFOTYPE)),
        "tar-sparse": _tar_of(_info("sparse", tarfile.GNUTYPE_SPARSE)),
        "tar-letter-case": _tar_of(_info("Name.txt"), _info("name.TXT")),
        "tar-twice": _tar_of(_info("name.txt"), _info("name.txt")),
        "tar-file-as-folder": _tar_of(_info("name"), _info("name/inner.txt")),
        "tar-control": _tar_of(_info("name\n.txt")),
        "tar-bomb": partial(_bomb, trial.pick(1 << 27, 1 << 32)),
        "tar-header-bomb": partial(_header_bomb, trial.pick(1 << 24, 1 << 29)),
        "tar-million": partial(_many, trial.pick(60_000, 1_000_000)),
        "tar-cut": _cut,
    }


def _zip_of(*names: str, mode: int = stat.S_IFREG, contents: Sequence[bytes] = (b"",)) -> Make:
    def make(path: Path) -> None:
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("before.txt", "whole")
            for name in names:
                info = zipfile.ZipInfo(name)
                info.external_attr, info.compress_type = mode << 16, zipfile.ZIP_DEFLATED
                with archive.open(info, "w") as file:
                    for content in contents:
                        file.write(content)

    return make


def _lying(num_blocks: int, path: Path) -> None:
    """A file that claims a thousand bytes in the directory."""
    _zip_of("bomb.bin", contents=[bytes(1 << 24)] * num_blocks)(path)
    data = path.read_bytes()
    at = data.rindex(b"PK\x01\x02") + 24
    path.write_bytes(data[:at] + (1_000).to_bytes(4, "little") + data[at + 4 :])


def _zips(trial: Trial) -> dict[str, Make]:
    return {
        "zip-parent": _zip_of("../outside.txt"),
        "zip-absolute": _zip_of(f"{trial.folder}/outside.txt"),
        "zip-backslash": _zip_of("..\\outside.txt"),
        "zip-drive": _zip_of("C:outside.txt"),
        "zip-symlink": _zip_of("link", mode=stat.S_IFLNK, contents=(b"/etc/passwd",)),
        "zip-letter-case": _zip_of("Name.txt", "name.TXT"),
        "zip-bomb": _zip_of("bomb.bin", contents=[bytes(1 << 24)] * trial.pick(8, 64)),
        "zip-lying": partial(_lying, trial.pick(4, 64)),
        "zip-many": _zip_of(*(f"entry-{number}" for number in range(trial.pick(60_000, 200_000)))),
    }


def _unpack(archive: Path, target: Path) -> str:
    try:
        return f"unpacked {unpack(archive, target)} files"
    except ArchiveError as error:
        return str(error)
