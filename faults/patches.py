"""Rows 16 to 19: patch files that contradict what is declared, hold no encoder's values, reach out of themselves, or run code.

Rows 16 and 17 go through the whole ingest of a small cohort, 18 and 19 through the reader alone, in a process of its own whose
time and memory are held against the bounds.
"""

import pickle
from collections.abc import Callable
from pathlib import Path

import h5py
import numpy as np
import polars as pl

from faults.children import answered
from faults.cohorts import DIM, small_contract, small_landing
from faults.report import Found, Trial
from feature_store.bag_file import write_shards
from feature_store.bag_reader import BagReader
from feature_store.bag_record import EncoderInfo, SlideBag
from feature_store.contract.slide_sources import PatchGrid
from feature_store.errors import BagInputError
from feature_store.home import Home
from feature_store.ingest.patch_file import read_patches
from feature_store.ingest.stage import Staged, stage

MOST_MB = 200
MOST_S = 1.0
TERA = 1 << 42
WIDE = 1024
LARGE_PACKED = 4_096
# float32 as read, float16 as checked, as written and as read back
LARGE_BYTES_PER_VALUE = 4 + 2 + 2 + 2
Make = Callable[[Path], None]
Spoil = Callable[[h5py.File], None]


def contradictions(trial: Trial) -> Found:
    """Row 16. The contract says 20x and 256 pixels; each spoilt slide's bag is refused and named, every other bag stays."""
    spoilt: dict[str, Spoil] = {
        "at 10x by its attribute": lambda file: file["coords"].attrs.update({"target_magnification": 10}),
        "at 40x by its attribute": lambda file: file["coords"].attrs.update({"target_magnification": 40}),
        "patches of another size": lambda file: file["coords"].attrs.update({"patch_size": 512}),
        "of another width": lambda file: _again(file, "features", np.ones((5, 2 * DIM), np.float32)),
        "by another encoder": lambda file: file["features"].attrs.update({"encoder": "resnet-50"}),
    }
    found, landing, slides = _spoilt(trial, spoilt)
    table = pl.read_csv(landing / "slides.csv", infer_schema=False)
    no_mpp, twice = slides[len(spoilt)], slides[len(spoilt) + 1]
    table = table.with_columns(mpp=pl.when(pl.col("slide_id") == no_mpp).then(pl.lit("")).otherwise("mpp"))
    other = table.filter(pl.col("slide_id") == twice).with_columns(magnification=pl.lit("10"))
    pl.concat([table, other]).write_csv(landing / "slides.csv")
    contract = small_contract(max_quarantined_fraction=0.9)
    source = contract.slides[0].model_copy(update={"patches": PatchGrid(magnification=20)})
    staged = stage(contract.model_copy(update={"slides": (source,)}), landing, Home(trial.folder / "home"))
    named = {**dict(zip(spoilt, slides, strict=False)), "without mpp": no_mpp, "listed at two magnifications": twice}
    del named["patches of another size"]  # the contract of this row does not say one
    _expect_refused(found, staged, named)
    return found


def values(trial: Trial) -> Found:
    """Row 17."""
    spoilt: dict[str, Spoil] = {
        "NaN": lambda file: file["features"].__setitem__((0, 0), np.nan),
        "infinite": lambda file: file["features"].__setitem__((0, 0), np.inf),
        "beyond float16": lambda file: _again(file, "features", file["features"][...].astype(np.float32) * 1e6),
        "all zero": lambda file: file["features"].__setitem__(..., 0.0),
        "constant": lambda file: file["features"].__setitem__(..., 0.25),
        "more coordinates than patches": lambda file: _again(file, "coords", np.zeros((len(file["features"]) + 1, 2), np.int64)),
        "no patch": lambda file: (
            _again(file, "features", np.zeros((0, DIM), "f4")),
            _again(file, "coords", np.zeros((0, 2), "i8")),
        )[0],
    }
    found, landing, slides = _spoilt(trial, spoilt)
    with h5py.File(landing / "slides" / f"{slides[-1]}.h5", "r+") as file:
        _again(file, "features", np.arange(DIM, dtype=np.float32)[None])
        _again(file, "coords", np.zeros((1, 2), np.int64))
    staged = stage(small_contract(max_quarantined_fraction=0.9), landing, Home(trial.folder / "home"))
    _expect_refused(found, staged, dict(zip(spoilt, slides, strict=False)))
    sizes = dict(staged.table("patch_bags").select("slide_id", "num_patches").rows())
    found.expect(sizes.get(slides[-1]) == 1, f"a bag of one patch: {sizes.get(slides[-1])} patches stored")
    _large(trial, found)
    return found


def reaching_out(trial: Trial) -> Found:
    """Row 18."""
    secret = trial.folder / "secret.bin"
    secret.write_bytes(np.ones((5, DIM), np.float32).tobytes())
    other = trial.folder / "other.h5"
    _write(other, np.ones((5, DIM), np.float32))

    def external(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("features", (5, DIM), "f4", external=[(str(secret), 0, h5py.h5f.UNLIMITED)])
            file["coords"] = np.zeros((5, 2), np.int64)

    def linked(link: object) -> Make:
        def make(path: Path) -> None:
            with h5py.File(path, "w") as file:
                file["elsewhere"] = np.ones((5, DIM), np.float32)
                file["features"] = link
                file["coords"] = np.zeros((5, 2), np.int64)

        return make

    def virtual(path: Path) -> None:
        layout = h5py.VirtualLayout((5, DIM), "f4")
        layout[...] = h5py.VirtualSource(str(other), "features", (5, DIM))
        with h5py.File(path, "w") as file:
            file.create_virtual_dataset("features", layout)
            file["coords"] = np.zeros((5, 2), np.int64)

    def objects(path: Path) -> None:
        with h5py.File(path, "w") as file:
            file.create_dataset("features", (5, DIM), h5py.special_dtype(vlen=np.float32))
            file["coords"] = np.zeros((5, 2), np.int64)

    def claiming(**options: object) -> Make:
        def make(path: Path) -> None:
            with h5py.File(path, "w") as file:
                file.create_dataset("features", (TERA // (4 * DIM), DIM), "f4", **options)
                file.create_dataset("coords", (TERA // (4 * DIM), 2), "i8", chunks=(1, 2))

        return make

    def unknown_filter(path: Path) -> None:
        with h5py.File(path, "w") as file:
            plan = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
            plan.set_chunk((5, DIM))
            plan.set_filter(32_999, h5py.h5z.FLAG_OPTIONAL, ())
            space = h5py.h5s.create_simple((5, DIM))
            dataset = h5py.h5d.create(file.id, b"features", h5py.h5t.IEEE_F32LE, space, plan)
            dataset.write_direct_chunk((0, 0), np.ones((5, DIM), np.float32).tobytes())
            file["coords"] = np.zeros((5, 2), np.int64)

    makers = {
        "external data": external,
        "an external link": linked(h5py.ExternalLink(str(other), "/features")),
        "a soft link": linked(h5py.SoftLink("/elsewhere")),
        "a virtual dataset": virtual,
        "objects": objects,
        "a claim of 4 TB": claiming(chunks=(1, DIM)),
        "an unknown filter": unknown_filter,
        "zeros packed 1000 to 1": _bomb,
    }
    return _refused(trial, {name: (".h5", make) for name, make in makers.items()})


def _bomb(path: Path) -> None:
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (1 << 22, DIM), "f4", chunks=(1 << 15, DIM), compression="gzip")
        zeros = np.zeros((1 << 15, DIM), np.float32)
        for begin in range(0, len(features), len(zeros)):  # at once it takes minutes
            features[begin : begin + len(zeros)] = zeros
        file.create_dataset("coords", (1 << 22, 2), "i8", chunks=(1 << 15, 2), compression="gzip")


def pickles(trial: Trial) -> Found:
    """Row 19. The pickles would write a file; no file may be there afterwards."""
    mark = trial.folder / "was-run"

    class Hostile:
        def __reduce__(self) -> tuple[Callable[[str], object], tuple[str]]:
            return (_run, (str(mark),))

    def pickled(path: Path) -> None:
        path.write_bytes(pickle.dumps(Hostile()))

    def object_npy(path: Path) -> None:
        np.save(path, np.array([Hostile()], dtype=object), allow_pickle=True)

    def object_npz(path: Path) -> None:
        np.savez(path, features=np.array([Hostile()], dtype=object), coords=np.zeros((1, 2), np.int64))

    kinds = {ending: (ending, pickled) for ending in (".pt", ".pth", ".pkl", ".joblib", ".npy", ".npz", ".h5", ".safetensors")}
    found = _refused(trial, {**kinds, "objects in .npy": (".npy", object_npy), "objects in .npz": (".npz", object_npz)})
    found.add("run", int(mark.exists()))
    found.expect(not mark.exists(), "a pickle was run")
    return found


def _run(mark: str) -> None:
    Path(mark).touch()


def _spoilt(trial: Trial, spoilt: dict[str, Spoil]) -> tuple[Found, Path, list[str]]:
    """Return a landing folder whose first slides are spoilt, in order, and its slides."""
    landing = small_landing(trial.folder / "landing", num_cases=40)
    slides = sorted(path.stem for path in (landing / "slides").glob("*.h5"))
    for spoil, slide in zip(spoilt.values(), slides, strict=False):
        with h5py.File(landing / "slides" / f"{slide}.h5", "r+") as file:
            spoil(file)
    return Found({"slides": len(slides), "spoilt": 0, "refused": 0, "untyped": 0}), landing, slides


def _expect_refused(found: Found, staged: Staged, named: dict[str, str]) -> None:
    """Hold the bags that were stored against the slides that must not be, and each of these against quarantine."""
    stored = set(staged.table("patch_bags")["slide_id"])
    reasons = "\n".join(staged.table("quarantine").select(pl.concat_str("found", "reason", ignore_nulls=True)).to_series())
    for what, slide in named.items():
        is_refused = slide not in stored and slide in reasons
        found.add("spoilt")
        found.add("refused", int(is_refused))
        found.expect(is_refused, f"{what}: slide {slide} was stored, or no reason names it")


def _large(trial: Trial, found: Found) -> None:
    """Take in a slide of 300,000 patches and pack 4,096 of them, within the memory of what is read and what is written."""
    num_patches, dim = trial.pick((30_000, DIM), (300_000, WIDE))
    path = trial.folder / "large.h5"
    rng = np.random.default_rng(0)
    with h5py.File(path, "w") as file:
        features = file.create_dataset("features", (num_patches, dim), "f4", chunks=(1, dim))
        for begin in range(0, num_patches, 10_000):
            features[begin : begin + 10_000] = rng.random((10_000, dim), np.float32)
        file.create_dataset("coords", data=np.zeros((num_patches, 2), np.int64), chunks=(1, 2))
    answer = answered(_take_in, path, trial.folder / "bags", dim)
    found.expect(answer.text == f"packed {LARGE_PACKED}", f"{num_patches:,} patches: {answer.text[:200]}")
    most_mb = num_patches * dim * LARGE_BYTES_PER_VALUE / 1e6 + MOST_MB
    found.expect(answer.took_mb < most_mb, f"{num_patches:,} patches: {answer.took_mb:.0f} MB, expected at most {most_mb:.0f}")
    path.unlink()
    found.counts |= {"largest_patches": num_patches, "largest_mb": round(answer.took_mb), "largest_s": round(answer.seconds, 1)}


def _take_in(path: Path, folder: Path, dim: int) -> str:
    patches = read_patches(path, "large", dim)
    bag = SlideBag("large", "case", patches.coords, patches.features, "0" * 64, 256, 0.5, 20.0)
    records = write_shards(folder, [bag], EncoderInfo("synthetic", "0" * 64, dim, "none"))
    with BagReader(folder) as reader:
        packed, _ = reader.pack(records, max_patches=LARGE_PACKED, rng=np.random.default_rng(0))
    return f"packed {len(packed)}"


def _refused(trial: Trial, makers: dict[str, tuple[str, Make]]) -> Found:
    found = Found({"files": len(makers), "refused": 0, "untyped": 0, "crashes": 0})
    most_mb = most_s = 0.0
    for number, (name, (ending, make)) in enumerate(makers.items()):
        path = trial.folder / f"{number}{ending}"
        make(path)
        answer = answered(_read, path)
        found.add("crashes", int(answer.has_ended))
        most_s, most_mb = max(most_s, answer.seconds), max(most_mb, answer.took_mb)
        is_refused = answer.text.startswith("BagInputError")
        found.add("refused", int(is_refused))
        found.add("untyped", int(not is_refused and not answer.has_ended and answer.text != "read"))
        found.expect(is_refused, f"{name}: {answer.text[:200]}")
        is_bounded = answer.seconds < MOST_S and answer.took_mb < MOST_MB
        found.expect(is_bounded, f"{name}: {answer.seconds:.2f} s and {answer.took_mb:.0f} MB")
        path.unlink()
    found.counts |= {"longest_s": round(most_s, 2), "most_memory_mb": round(most_mb)}
    return found


def _read(path: Path) -> str:
    try:
        read_patches(path, "slide", DIM)
    except BagInputError as error:
        return f"BagInputError: {error}"
    except Exception as error:  # noqa: BLE001 - what is looked for
        return f"{type(error).__name__}: {error}"
    return "read"


def _again(file: h5py.File, name: str, values: np.ndarray) -> None:
    """Put other values in a dataset's place, with its attributes."""
    attributes = dict(file[name].attrs)
    del file[name]
    file.create_dataset(name, data=values, maxshape=(None, values.shape[1]), chunks=(1, values.shape[1]))
    file[name].attrs.update(attributes)


def _write(path: Path, features: np.ndarray) -> None:
    with h5py.File(path, "w") as file:
        file["features"], file["coords"] = features, np.zeros((len(features), 2), np.int64)
