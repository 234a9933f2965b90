"""What an embedding run keeps of each slide, on disk: features and coordinates, a picture, and a manifest, written last.

A recipe (encoder, grid, least tissue) has a folder; in it a slide's files are named by the slide's checksum, so they hold no
identifier, and a slide that comes again under another name is not embedded again. A slide is embedded if its manifest is there,
and its manifest is there only once all else is durable: a killed run leaves no half of a slide that looks whole.

Belongs here: names, writing, reading back. Does not belong here: making embeddings (mice_model/slide_embedding/), taking them
into bags (ingest/whole_slides.py).
"""

import hashlib
import json
import os
import uuid
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import save_file

from feature_store.contract.rules import Encoder
from feature_store.contract.slide_sources import PatchGrid
from feature_store.durable import sync_file, sync_folder
from feature_store.errors import EncoderError, StoreWriteError

# Raise it with any change after which a slide would give other patches: every slide is then embedded anew.
RECIPE_VERSION = 1
MIN_TISSUE = 0.25
ENCODER_FILE = "encoder.json"


@dataclass(frozen=True)
class Recipe:
    """What is done to each slide of a source: which encoder looks at which patches."""

    encoder: Encoder
    patches: PatchGrid
    min_tissue: float = MIN_TISSUE

    def folder(self, embeddings: Path) -> Path:
        """Return where results of this recipe lie: the encoder's name, and a hash of all that is declared."""
        said = {
            "version": RECIPE_VERSION,
            "encoder": self.encoder.model_dump(exclude={"patch_size_px"}),
            "patches": self.patches.model_dump(),
            "min_tissue": self.min_tissue,
        }
        digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:16]
        readable = "".join(sign if sign.isalnum() else "-" for sign in self.encoder.name.casefold())
        return embeddings / f"{readable[:40]}-{digest}"


@dataclass(frozen=True)
class EncoderMade:
    """The encoder that made a folder's embeddings: its name, the hash of its weights, width, and the input's normalisation."""

    name: str
    weight_sha256: str
    width: int
    normalisation: str


@dataclass(frozen=True)
class Manifest:
    """What became of a slide. `refused` says why it has no embedding, and then all after it is empty.

    `declared_mpp`: the contract's microns per pixel, None where it says none; `mpp` is what was taken, `mpp_origin` by whose
    word. `grid` and `slide` describe how patches were cut and what from; `versions`, with what.
    """

    slide_sha256: str
    declared_mpp: float | None
    refused: str | None = None
    features_sha256: str = ""
    num_patches: int = 0
    mpp: float | None = None
    mpp_origin: str = ""
    objective_power: float | None = None
    level0_size_px: int = 0
    tissue_share: float = 0.0
    grid: dict[str, float] | None = None
    slide: dict[str, object] | None = None
    versions: dict[str, str] | None = None


class RecipeFolder:
    """The results of one recipe. Making one does not make the folder."""

    def __init__(self, embeddings: Path, recipe: Recipe) -> None:
        self.path = recipe.folder(embeddings)

    def features(self, slide_sha256: str) -> Path:
        """Return a slide's file: tensors `features` (N, width) float16 and `coords` (N, 2) int32, level-0 pixels."""
        return self.path / f"{slide_sha256}.safetensors"

    def picture(self, slide_sha256: str) -> Path:
        """Return a slide's picture: a thumbnail with tissue and grid."""
        return self.path / f"{slide_sha256}.jpg"

    def manifest_file(self, slide_sha256: str) -> Path:
        """Return where a slide's manifest lies, be it there or not."""
        return self.path / f"{slide_sha256}.json"

    def manifest(self, slide_sha256: str, declared_mpp: float | None) -> Manifest | None:
        """Return what became of a slide; None if nothing yet, or under another declared resolution."""
        try:
            found = Manifest(**json.loads(self.manifest_file(slide_sha256).read_text(encoding="utf-8")))
        except (FileNotFoundError, ValueError, TypeError):
            return None
        return found if found.declared_mpp == declared_mpp else None

    def lock_file(self, slide_sha256: str) -> Path:
        """Return the file to be locked by whoever works on a slide."""
        return self.path / "locks" / slide_sha256

    def encoder(self) -> EncoderMade | None:
        """Return what made the embeddings here; None before the first."""
        try:
            return EncoderMade(**json.loads((self.path / ENCODER_FILE).read_text(encoding="utf-8")))
        except FileNotFoundError:
            return None

    def open_for(self, encoder: EncoderMade) -> None:
        """Make the folder, or see that this encoder made what is in it. Raises EncoderError where another did."""
        self._durably(ENCODER_FILE, lambda path: path.write_text(_json(asdict(encoder)), encoding="utf-8"), is_kept=True)
        made_by = self.encoder()
        if made_by != encoder:
            raise EncoderError(
                f"encoder {encoder.name}: weights {encoder.weight_sha256[:12]}, {encoder.normalisation}; expected those that "
                f"made the embeddings in {self.path.name}: {made_by and made_by.weight_sha256[:12]}, "
                f"{made_by and made_by.normalisation}. Declare `encoder.sha256` in the contract, or remove that folder."
            )
        (self.path / "locks").mkdir(exist_ok=True)

    def keep(self, manifest: Manifest, features: NDArray[np.float16], xy: NDArray[np.int32], picture: bytes) -> None:
        """Keep a slide's embedding; it counts once the last of its files is in place. Raises StoreWriteError."""
        tensors: dict[str, NDArray[Any]] = {"features": np.ascontiguousarray(features), "coords": np.ascontiguousarray(xy)}
        path = self.features(manifest.slide_sha256)
        self.manifest_file(manifest.slide_sha256).unlink(missing_ok=True)  # of another declared resolution
        self._durably(path.name, lambda new: save_file(tensors, new))
        self._durably(self.picture(manifest.slide_sha256).name, lambda new: new.write_bytes(picture))
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        self._write_manifest(Manifest(**{**asdict(manifest), "features_sha256": digest}))

    def refuse(self, slide_sha256: str, declared_mpp: float | None, reason: str) -> None:
        """Keep why a slide has no embedding, for the ingest to say; the next run tries again."""
        self._write_manifest(Manifest(slide_sha256, declared_mpp, reason))

    def _write_manifest(self, manifest: Manifest) -> None:
        said = {name: value for name, value in asdict(manifest).items() if value is not None or name == "declared_mpp"}
        name = self.manifest_file(manifest.slide_sha256).name
        self._durably(name, lambda path: path.write_text(_json(said), encoding="utf-8"))

    def _durably(self, name: str, write: Callable[[Path], object], *, is_kept: bool = False) -> None:
        """Write a file beside its place, then put it there; with `is_kept`, only where there is none."""
        new = self.path / f".{name}.{uuid.uuid4().hex}.partial"  # by its name erasure finds it
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            write(new)
            sync_file(new)
            if not is_kept:
                new.replace(self.path / name)
            elif not (self.path / name).exists():
                os.link(new, self.path / name)  # of two processes that come first, one wins
            sync_folder(self.path)
        except FileExistsError:
            pass
        except OSError as error:
            raise StoreWriteError(
                f"embeddings folder {self.path}: {error}, expected a writable disk with space. Mend that and run again: slides "
                "that are done stay done."
            ) from error
        finally:
            new.unlink(missing_ok=True)


def _json(said: object) -> str:
    return json.dumps(said, sort_keys=True, indent=1)


def picture_of(embeddings: Path, slide_sha256: str, num_patches: int) -> Path | None:
    """Return a slide's picture, of the recipe that took so many patches of it; None where none is kept."""
    for picture in sorted(embeddings.glob(f"*/{slide_sha256}.jpg")) if slide_sha256 else ():
        try:
            said = json.loads(picture.with_suffix(".json").read_text(encoding="utf-8"))
        except (FileNotFoundError, ValueError):
            continue
        if said.get("num_patches") == num_patches:
            return picture
    return None
