"""The offline patch encoder: colour, texture and nuclei as pathologists' image analysis has long measured them. No weights.

Hematoxylin, eosin and DAB by colour deconvolution (Ruifrok and Johnston 2001), local binary patterns (Ojala 2002), grey-level
co-occurrence (Haralick 1973), nuclei by Otsu's threshold of hematoxylin; all by scikit-image. Deterministic, and no foundation
model: it keeps the pipeline whole where none can be had, and is a floor to compare one with.
"""

import hashlib
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from scipy import ndimage
from skimage.color import rgb2hed
from skimage.feature import graycomatrix, graycoprops, local_binary_pattern
from skimage.filters import threshold_otsu

Values = NDArray[np.float64]

_PERCENTILES = (10, 50, 90)
_LBP_POINTS, _LBP_RADIUS = 8, 1
_GREY_LEVELS = 32
_GLCM_DISTANCES = (1, 4)
_GLCM_ANGLES = (0.0, np.pi / 4, np.pi / 2, 3 * np.pi / 4)
_GLCM_PROPERTIES = ("contrast", "dissimilarity", "homogeneity", "energy", "correlation")
# Areas are brought near 1: a nucleus of 7 microns at half a micron a pixel covers some 150 pixels.
_NUCLEUS_PX = 150.0
# Hematoxylin below this is background: Otsu would split even a patch without a nucleus. Above noise of glass, below pale nuclei.
_LEAST_HEMATOXYLIN = 0.03
_NOISE_PX = 20
# Optical densities are a few hundredths: brought near 1, where float16 is finest.
_DENSITY_SCALE = 10.0


class ClassicalEncoder:
    """Patches -> 57 measurements. Its weight hash is that of this file and scikit-image's version."""

    name = "classical"
    width = 3 * 5 + 3 * 2 + 2 * 10 + 10 + 6
    normalisation = "none; optical density by Ruifrok and Johnston's vectors"
    batch_size = 16

    def __init__(self) -> None:
        source = Path(__file__).read_bytes()
        self.weight_sha256 = hashlib.sha256(source + version("scikit-image").encode()).hexdigest()

    def encode(self, patches: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Return (n, 57) for RGB patches (n, size, size, 3)."""
        return np.stack([_measured(patch) for patch in patches]).astype(np.float32)


def _measured(rgb: NDArray[np.uint8]) -> Values:
    hed = rgb2hed(rgb) * _DENSITY_SCALE
    grey = np.rint(rgb @ np.array([0.299, 0.587, 0.114])).astype(np.uint8)
    hematoxylin = ndimage.gaussian_filter(hed[..., 0], 1.0)
    top = max(float(hematoxylin.max()), 1e-6)
    as_grey = np.clip(hematoxylin / top * 255, 0, 255).astype(np.uint8)
    parts = [*map(_stain, np.moveaxis(hed, -1, 0)), _colour(rgb), _patterns(grey), _patterns(as_grey), _co_occurrence(grey)]
    return np.concatenate([*parts, _nuclei(hematoxylin)])


def _stain(density: Values) -> Values:
    return np.array([density.mean(), density.std(), *np.percentile(density, _PERCENTILES)])


def _colour(rgb: NDArray[np.uint8]) -> Values:
    pixels = rgb.reshape(-1, 3) / 255.0
    return np.concatenate([pixels.mean(axis=0), pixels.std(axis=0)])


def _patterns(grey: NDArray[np.uint8]) -> Values:
    codes = local_binary_pattern(grey, _LBP_POINTS, _LBP_RADIUS, method="uniform").astype(np.int64)
    return np.bincount(codes.ravel(), minlength=_LBP_POINTS + 2) / codes.size


def _co_occurrence(grey: NDArray[np.uint8]) -> Values:
    levels = (grey // (256 // _GREY_LEVELS)).astype(np.uint8)
    pairs = graycomatrix(levels, _GLCM_DISTANCES, _GLCM_ANGLES, _GREY_LEVELS, symmetric=True, normed=True)
    # contrast grows with the square of the levels: by the root it stays near the others
    found = {name: graycoprops(pairs, name).mean(axis=1) for name in _GLCM_PROPERTIES}
    return np.concatenate([np.sqrt(found.pop("contrast")), *found.values()])


def _nuclei(hematoxylin: Values) -> Values:
    """Return number per 10,000 pixels, share of the area, mean and spread of size, and hematoxylin inside and outside."""
    floor = _LEAST_HEMATOXYLIN * _DENSITY_SCALE
    is_flat = float(np.ptp(hematoxylin)) < floor
    dark = np.zeros(hematoxylin.shape, bool) if is_flat else hematoxylin > max(float(threshold_otsu(hematoxylin)), floor)
    labels, _ = ndimage.label(dark)
    sizes = np.bincount(labels.ravel())[1:]
    relative = sizes[sizes >= _NOISE_PX] / _NUCLEUS_PX
    inside, outside = hematoxylin[dark], hematoxylin[~dark]
    return np.array(
        [
            len(relative) / hematoxylin.size * 1e4,
            dark.mean(),
            relative.mean() if len(relative) else 0.0,
            relative.std() if len(relative) else 0.0,
            inside.mean() if inside.size else 0.0,
            outside.mean() if outside.size else 0.0,
        ]
    )
