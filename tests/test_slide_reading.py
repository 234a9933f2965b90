"""Whole slides up to their patches: header, scale, tissue, grid, pixels; real slides, and synthetic ones of known content."""

import os
import struct
import subprocess
import sys
from contextlib import closing
from dataclasses import replace
from pathlib import Path

import numpy as np
import openslide
import pytest
from PIL import Image

from faults.pyramids import Blob, write_pyramid
from feature_store.contract.slide_sources import PatchGrid
from feature_store.errors import SlideReadError, SlideScaleError, SlideTissueError
from feature_store.slides import decoding
from feature_store.slides.decoding import Decoders
from feature_store.slides.jpeg_tiles import JpegTiles
from feature_store.slides.picture import MAX_BYTES, slide_picture
from feature_store.slides.prepare import Prepared, named, prepare
from feature_store.slides.scale import slide_scale
from feature_store.slides.slide_file import SlideFacts, files_of, open_slide, read_facts, slide_sha256
from feature_store.slides.tissue import LowMagnification, tissue_mask

GRID = PatchGrid(mpp=0.5, size_px=256)
WSI = Path(os.environ.get("MICE_DATA", "")) / "raw" / "wsi"
real = pytest.mark.skipif(not (WSI / "broken.svs").is_file(), reason="no real slides: set MICE_DATA to the landing folder")
PIECE = Blob(0.5, 0.5, 0.3, 0.35)


@pytest.fixture(scope="module")
def slide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("slide") / "one.tiff"
    return write_pyramid(path, 4_100, 3_900, mpp=0.25, pieces=(PIECE,))


def patches(path: Path, found: Prepared, num_processes: int) -> np.ndarray:
    grid = found.grid
    pixels = np.zeros((len(grid.xy), grid.size_px, grid.size_px, 3), np.uint8)
    seen = np.zeros(len(grid.xy), int)
    with Decoders(num_processes) as decoders:
        for places, part in decoders.patches(path, grid, found.facts.downsamples[grid.level]):
            pixels[places] = part
            seen[places] += 1
    assert (seen == 1).all()
    return pixels


def plain(path: Path, found: Prepared) -> np.ndarray:
    """Read patch after patch with OpenSlide alone."""
    grid, size = found.grid, found.grid.level_size_px
    with closing(openslide.OpenSlide(path)) as opened:
        regions = [opened.read_region((x, y), grid.level, (size, size)).convert("RGB") for x, y in grid.xy.tolist()]
    return np.stack([np.asarray(region.reduce(size // grid.size_px)) for region in regions])


def test_patches_are_what_openslide_reads(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepare(slide, GRID, 0.25)
    assert (found.grid.level, found.grid.level0_size_px) == (0, 512)
    expected = plain(slide, found)
    np.testing.assert_array_equal(patches(slide, found, 0), expected)
    np.testing.assert_array_equal(patches(slide, found, 2), expected)

    def no_tiles(*_: object) -> None:
        raise ValueError("no tiles")

    decoding._reader.cache_clear()
    monkeypatch.setattr(decoding, "JpegTiles", no_tiles)
    np.testing.assert_array_equal(patches(slide, found, 0), expected)
    decoding._reader.cache_clear()


def test_tiles_that_decode_otherwise_are_left_to_openslide(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = prepare(slide, GRID, 0.25)
    read = JpegTiles.read
    monkeypatch.setattr(JpegTiles, "read", lambda *arguments: read(*arguments) ^ 1)
    decoding._reader.cache_clear()
    np.testing.assert_array_equal(patches(slide, found, 0), plain(slide, found))
    decoding._reader.cache_clear()


@real
@pytest.mark.parametrize(("name", "mpp"), [("cmu-1-small-region.svs", None), ("tcga-cr-7395-01a-01-ts1.svs", 0.5)])
def test_patches_of_real_slides_are_what_openslide_reads(name: str, mpp: float | None) -> None:
    found = prepare(WSI / name, GRID, 0.25, mpp)
    np.testing.assert_array_equal(patches(WSI / name, found, 0), plain(WSI / name, found))


@real
def test_jpeg_tiles_of_a_real_slide_are_used() -> None:
    with closing(openslide.OpenSlide(WSI / "cmu-1-small-region.svs")) as opened:
        tiles = JpegTiles(WSI / "cmu-1-small-region.svs", opened.level_dimensions)
        region = opened.read_region((300, 1_100), 0, (700, 500)).convert("RGB")
    np.testing.assert_array_equal(tiles.read(0, 300, 1_100, 700, 500), np.asarray(region))
    with pytest.raises(ValueError, match="no TIFF of JPEG tiles"):  # JPEG 2000
        JpegTiles(WSI / "tcga-cr-7395-01a-01-ts1.svs", ((4443, 3567), (2221, 1783)))


@real
@pytest.mark.parametrize(
    ("name", "error", "found", "remedy"),
    [
        ("broken.svs", SlideReadError, "no format that OpenSlide", "compare its checksum, and fetch it again"),
        ("pathml_small_dicom.dcm", SlideReadError, "does not read this DICOM file", "convert it to a pyramid TIFF"),
        ("tcga-cr-7395-01a-01-ts1.svs", SlideScaleError, "no microns per pixel and no objective power", "declare `slide_mpp`"),
        ("pathml_small_HE_levels.tiff", SlideScaleError, "352.858 microns per pixel by its header", "Declare `slide_mpp`"),
        ("nowhere.svs", SlideReadError, "no such file", "Fetch it"),
    ],
)
def test_what_cannot_be_read_says_what_to_do(name: str, error: type[Exception], found: str, remedy: str) -> None:
    with pytest.raises(error, match=f"slide {name}: .*{found}") as raised, named(name):
        prepare(WSI / name, GRID, 0.25)
    assert remedy in str(raised.value)
    assert str(WSI) not in str(raised.value)


def facts(header: tuple[float, float] | None, power: float | None = None) -> SlideFacts:
    return SlideFacts("test", ((100, 100),), (1.0,), (0, 0, 100, 100), header, power)


@pytest.mark.parametrize(
    ("header", "power", "declared", "mpp", "origin"),
    [
        ((0.499, 0.499), 20.0, None, 0.499, "header"),
        ((0.499, 0.499), None, 0.5, 0.499, "header"),
        (None, 40.0, 0.23, 0.23, "contract"),
        ((352.8, 352.8), None, 0.5, 0.5, "contract"),  # a screen's resolution is no slide's word
        (None, 40.0, None, 0.25, "objective power"),
    ],
)
def test_scale_and_by_whose_word(header, power, declared, mpp, origin) -> None:
    found = slide_scale(facts(header, power), declared)
    assert (found.mpp, found.origin) == (mpp, origin)


@pytest.mark.parametrize(
    ("header", "declared", "message"),
    [
        ((0.25, 0.25), 0.5, "0.25 microns per pixel by its header, expected 0.5 by the contract"),
        ((0.25, 0.5), None, "expected square pixels"),
        (None, None, "no microns per pixel and no objective power"),
    ],
)
def test_a_scale_that_nobody_can_know_is_refused(header, declared, message) -> None:
    with pytest.raises(SlideScaleError, match=message):
        slide_scale(facts(header), declared)


def test_the_mask_is_where_tissue_was_drawn(slide: Path) -> None:
    found = prepare(slide, GRID, 0.25)
    height, width = found.mask.shape
    y, x = np.mgrid[:height, :width]
    across, down = width * found.low.downsample, height * found.low.downsample
    drawn = (((x + 0.5) / width * across / 4_100 - PIECE.x) / PIECE.rx) ** 2 + (
        ((y + 0.5) / height * down / 3_900 - PIECE.y) / PIECE.ry
    ) ** 2 < 1
    assert (drawn & found.mask).sum() / (drawn | found.mask).sum() > 0.9


@pytest.mark.parametrize(
    "ink", [(40, 140, 90), (40, 60, 170), (215, 30, 40), (15, 15, 18)], ids=["green", "blue", "red", "black"]
)
def test_ink_is_no_tissue(ink: tuple[int, int, int]) -> None:
    rgb = np.full((200, 200, 3), 240, np.uint8)
    rgb[20:180, 20:90] = (190, 120, 170)
    rgb[20:180, 110:180] = ink
    mask = tissue_mask(LowMagnification(rgb, 32.0, 0, 0), 0.25)
    assert mask[30:170, 30:80].all()
    assert not mask[30:170, 120:170].any()


def test_dab_is_tissue() -> None:
    rgb = np.full((200, 200, 3), 240, np.uint8)
    rgb[20:180, 20:180] = (150, 110, 80)
    assert tissue_mask(LowMagnification(rgb, 32.0, 0, 0), 0.25)[30:170, 30:170].all()


def test_the_grid_keeps_overlap_and_least_tissue(slide: Path) -> None:
    wide, half = (prepare(slide, GRID.model_copy(update={"overlap_px": px}), 0.25).grid for px in (0, 128))
    assert set(np.unique(wide.xy % 512)) == {0}
    assert set(np.unique(half.xy % 256)) == {0}
    assert 3 < len(half.xy) / len(wide.xy) < 5
    strict = prepare(slide, GRID, 0.9).grid
    assert 0 < len(strict.xy) < len(wide.xy)
    assert strict.tissue.min() >= 0.9
    assert {tuple(xy) for xy in strict.xy} <= {tuple(xy) for xy in wide.xy}
    assert (wide.xy + wide.level0_size_px <= (4_100, 3_900)).all()


def test_patches_of_a_scale_between_levels_are_resampled(slide: Path) -> None:
    found = prepare(slide, PatchGrid(mpp=1.3, size_px=224), 0.25)
    assert found.grid.level == 1  # of downsample 4: 1 micron
    assert found.grid.mpp == pytest.approx(1.3, rel=0.01)
    assert found.grid.level_size_px == round(224 * 1.3)
    pixels = patches(slide, found, 0)
    assert pixels.shape[1:] == (224, 224, 3)
    inside = pixels[found.grid.tissue > 0.99]
    assert len(inside)
    assert (inside[..., 0].mean(axis=(1, 2)) < 230).all()  # tissue, not glass


def test_a_slide_that_cannot_give_such_patches_is_refused(slide: Path, tmp_path: Path) -> None:
    with pytest.raises(SlideScaleError, match=r"expected 0\.1 or finer"):
        prepare(slide, PatchGrid(mpp=0.1, size_px=256), 0.25)
    empty = write_pyramid(tmp_path / "empty.tiff", 2_000, 2_000, pieces=())
    with pytest.raises(SlideTissueError, match="best of 9 patches has 0% tissue"):
        prepare(empty, GRID, 0.25)
    tiny = write_pyramid(tmp_path / "tiny.tiff", 300, 300, downsamples=(1,))
    with pytest.raises(SlideTissueError, match="smaller than one patch"):
        prepare(tiny, GRID, 0.25)


def test_a_slide_that_claims_too_much_is_refused_before_it_is_read(slide: Path, tmp_path: Path) -> None:
    data = bytearray(slide.read_bytes())
    size = struct.pack("<HHII", 256, 4, 1, 4_100)  # the first directory's width
    assert data.count(size) == 1
    path = tmp_path / "claim.tiff"
    path.write_bytes(data.replace(size, struct.pack("<HHII", 256, 4, 1, 2_000_000_000)))
    with pytest.raises(SlideReadError):
        prepare(path, GRID, 0.25)
    one_level = write_pyramid(tmp_path / "long.tiff", 600_000, 300, downsamples=(1,))
    with pytest.raises(SlideReadError, match="600,000 pixels long, expected at most 500,000"):
        prepare(one_level, GRID, 0.25)


def test_a_slide_cut_short_is_refused(slide: Path, tmp_path: Path) -> None:
    data = slide.read_bytes()
    found = prepare(slide, GRID, 0.25)
    for share in (0.1, 0.5, 0.9):
        path = tmp_path / f"{share}.tiff"
        path.write_bytes(data[: int(len(data) * share)])
        with pytest.raises(SlideReadError, match=r"fetch it again|Fetch it again"):
            prepare(path, GRID, 0.25)
    # the directories are whole, and tiles are not
    first = data.index(b"\xff\xd8\xff")
    path = tmp_path / "spoiled.tiff"
    path.write_bytes(data[: first + 30] + os.urandom(60_000) + data[first + 60_030 :])
    with pytest.raises(SlideReadError, match="pixels that do not decode"):
        patches(path, replace(found), 0)


def test_label_and_macro_are_never_read(slide: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def read(*_: object) -> None:
        raise AssertionError("an associated image was read")

    monkeypatch.setattr(openslide.lowlevel, "read_associated_image", read)
    path = WSI / "cmu-1-small-region.svs" if (WSI / "cmu-1-small-region.svs").is_file() else slide
    found = prepare(path, GRID, 0.25)
    patches(path, found, 0)
    slide_picture(found.low, found.mask, found.grid)


def test_the_picture_is_small_and_shows_tissue_and_patches(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "large.tiff", 20_000, 20_000)
    found = prepare(path, GRID, 0.25)
    data = slide_picture(found.low, found.mask, found.grid)
    (tmp_path / "picture.jpg").write_bytes(data)
    with Image.open(tmp_path / "picture.jpg") as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert len(data) <= MAX_BYTES
    assert max(pixels.shape) <= 720
    is_blue = (pixels[..., 2] > pixels[..., 0] + 60) & (pixels[..., 2] > pixels[..., 1] + 40)
    assert 0.02 < is_blue.mean() < 0.5


def test_slides_of_several_files_are_told_by_all_of_them(tmp_path: Path) -> None:
    slide, data = tmp_path / "one.mrxs", tmp_path / "one" / "Data0000.dat"
    data.parent.mkdir()
    slide.write_bytes(b"index")
    data.write_bytes(b"pixels")
    before = slide_sha256(slide)
    assert files_of(slide) == [slide, data]
    data.write_bytes(b"other pixels")
    assert slide_sha256(slide) != before


BOUNDED = """
import sys
from pathlib import Path
from feature_store.contract.slide_sources import PatchGrid
from feature_store.slides.decoding import Decoders
from feature_store.slides.prepare import prepare
found = prepare(Path(sys.argv[1]), PatchGrid(mpp=0.5, size_px=256), 0.25)
num = 0
for _, pixels in Decoders(0).patches(Path(sys.argv[1]), found.grid, 1.0):
    num += len(pixels)
    if num > 400:
        break
# getrusage would tell of the process that forked this one
(peak,) = (line.split()[1] for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
print(len(found.grid.xy), peak)
"""


def test_a_slide_of_40_000_pixels_is_patched_in_bounded_memory(tmp_path: Path) -> None:
    path = write_pyramid(tmp_path / "large.tiff", 40_960, 40_960)
    assert path.stat().st_size < 2e6
    command = [sys.executable, "-c", BOUNDED, str(path)]
    done = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parents[1])
    num_patches, peak_kb = map(int, done.stdout.split())
    assert num_patches > 2_000
    assert peak_kb < 700_000  # its patches are 400 MB, the slide 5 GB


def test_facts_of_a_slide(slide: Path) -> None:
    with closing(open_slide(slide)) as opened:
        found = read_facts(opened)
    assert found.levels == ((4_100, 3_900), (1_025, 975), (257, 244))
    assert found.header_mpp == pytest.approx((0.25, 0.25))
    assert found.bounds == (0, 0, 4_100, 3_900)
