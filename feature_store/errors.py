"""Every failure the platform can name, one class per failure.

What belongs here: exception classes only. A message reads
`<which thing>: <found>, expected <what>[; first offenders]. <next action>.` Nothing here formats, logs or catches.
"""


class MiceError(Exception):
    """Base of all typed errors, so a caller (the CLI, Dagster) can print the message without a traceback."""


class LandingMissingError(MiceError):
    """The landing folder, or a source a contract names in it, is not there."""


class LandingTakenError(MiceError):
    """The platform was to make a landing folder where other files lie already."""


class ContractError(MiceError):
    """A cohort contract is malformed, or what lies in the landing folder does not match it."""


class ColumnMissingError(ContractError):
    """A source has no column of the name the contract gives (renamed, reordered away, or a typo)."""


class SourceFormatError(MiceError):
    """A source file cannot be read in the layout the contract declares."""


class AuditError(MiceError):
    """Staged data failed a blocking check; nothing was published."""


class StoreBusyError(MiceError):
    """Another process held the catalog's write lock for longer than the bounded wait."""


class StoreMissingError(MiceError):
    """There is no feature store at the given home."""


class StoreWriteError(MiceError):
    """The store could not be written (no space, no permission, a failing disk); nothing of the write is visible."""


class CatalogError(MiceError):
    """The catalog's database cannot be reached or read."""


class SnapshotMissingError(MiceError):
    """No snapshot of the given id, or no published cohort to take one of."""


class PinError(MiceError):
    """A snapshot cannot be named so, or no snapshot has the name."""


class CaseMissingError(MiceError):
    """No row of the store names the case."""


class ErasureError(MiceError):
    """A case cannot be erased, or an erased one would come back (its rows, or without the key nobody could tell)."""


class DeidentifyError(MiceError):
    """A cohort cannot be de-identified: the key is gone or another, or an identifier would be stored."""


class BagFileError(MiceError):
    """A bag shard is not laid out as docs/bags.md demands (wrong encoding, pages, offsets or counts)."""


class BagChecksumError(BagFileError):
    """A bag's bytes do not match their recorded checksum."""


class BagInputError(MiceError):
    """Patch features offered for a bag cannot be stored (NaN, overflow, counts that disagree, no patches)."""


class SlideError(MiceError):
    """A whole-slide image cannot be cut into patches; other slides can."""


class SlideReadError(SlideError):
    """A slide cannot be opened or decoded."""


class SlideScaleError(SlideError):
    """Nobody says how many microns a slide's pixel measures, or two say different things."""


class SlideTissueError(SlideError):
    """No patch of a slide has enough tissue, or there are too many patches for a bag."""


class EncoderError(MiceError):
    """A patch encoder cannot be loaded, or is not the one that was declared or that made the embeddings already there."""


class RunnerError(MiceError):
    """What a run is to be shared out by cannot be had."""


class LeakageError(MiceError):
    """A build would let held-out or post-baseline information into training."""


class StudyError(MiceError):
    """A study file is malformed or asks for what the snapshot does not hold."""


class ModelMissingError(MiceError):
    """There are no trained networks of a study, or not those that a case needs."""


class CaseUnusableError(MiceError):
    """A case of the store cannot be scored by a study: it is not in the study's data, or has nothing that the study looks at."""


class PagePlaceError(MiceError):
    """A page about a case was to be written to where an erasure would not find it, or after the case was erased."""


class QueryError(MiceError):
    """An analyst's SQL was refused or failed; the message says why."""


class GdcError(MiceError):
    """The GDC refused a request, or answered with what its documentation does not describe."""


class GdcMissingError(GdcError):
    """The GDC has nothing under the address asked for."""


class GdcUnavailableError(GdcError):
    """The GDC did not answer, broke off, or asked to come back later: the same request may succeed in a while."""

    def __init__(self, message: str, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ManifestError(MiceError):
    """A manifest is malformed, or names files that must not be written."""


class DownloadError(MiceError):
    """A file cannot be downloaded, or is not the one that was announced."""


class DownloadStoppedError(DownloadError):
    """Downloading was told to stop; what has arrived stays and is gone on with the next time."""


class ArchiveError(MiceError):
    """An archive is damaged, or holds what must not be unpacked."""
