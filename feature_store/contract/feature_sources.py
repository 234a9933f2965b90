"""The sources a contract may name for vectors of features (RNA, copy number, protein), mutations and reports, by layout."""

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from feature_store.contract.fields import ColumnPattern, ValuePattern
from feature_store.contract.rules import GeneNames
from feature_store.contract.sources import CaseFilesSource, GapSource, RowSource


class _Vectors(RowSource):
    """Values of many features of a case. `plausible`: the range outside which a value is kept, but reported."""

    gene_names: GeneNames | None = None
    unit: str
    transform: Literal["none", "log2p1"] = "none"
    plausible: tuple[float, float] | None = None

    @model_validator(mode="after")
    def _range_is_not_empty(self) -> "_Vectors":
        if self.plausible is not None and not self.plausible[0] < self.plausible[1]:
            raise ValueError(f"plausible {list(self.plausible)} is no range, expected [lowest, highest]")
        return self


class VectorSource(_Vectors):
    """One row per case (or per slide, rows then being equal); `features` is a pattern whose group names the feature."""

    layout: Literal["case_table"] = "case_table"
    features: ColumnPattern
    grain: Literal["case", "slide"] = "case"

    @property
    def number_columns(self) -> str:
        """See RowSource."""
        return self.features

    @model_validator(mode="after")
    def _names_lie_in_a_table(self) -> "VectorSource":
        if self.gene_names is not None and self.gene_names.path is None:
            raise ValueError("gene_names needs a path: a table of cases has no column of names")
        return self


class SampleFilesSource(CaseFilesSource, _Vectors):
    """One file per sample with a row per gene; genes that `skip` matches as a whole are passed over (STAR's counts N_*)."""

    layout: Literal["sample_files"]
    gene: str
    value: str
    skip: ValuePattern | None = None


def _layout(default: str) -> Discriminator:
    def of(source: Any) -> str | None:
        layout = source.get("layout", default) if isinstance(source, dict) else getattr(source, "layout", default)
        return layout if isinstance(layout, str) else None

    return Discriminator(of)


AnyVectorSource = Annotated[
    Annotated[VectorSource, Tag("case_table")] | Annotated[SampleFilesSource, Tag("sample_files")], _layout("case_table")
]


class _Variants(GapSource):
    gene_symbol: str
    variant_classification: str
    protein_change: str
    drop_classifications: tuple[str, ...] = ()  # silent variants, where the source lists them


class VariantSource(_Variants):
    """One row per variant."""

    layout: Literal["variant_table"]

    @property
    def columns_read(self) -> tuple[str, ...]:
        """See RowSource; a table of all variants has many more columns."""
        return (*self.columns_of_rows, self.gene_symbol, self.variant_classification, self.protein_change)


class VariantFilesSource(CaseFilesSource, _Variants):
    """One file per case with a row per variant (MAF). A file without a row says that none was found."""

    layout: Literal["variant_files"]


class MutationMatrixSource(GapSource):
    """One row per case (or slide), one 0/1 column per gene; `features` is a pattern whose group is the gene symbol."""

    layout: Literal["mutation_matrix"]
    features: ColumnPattern

    @property
    def number_columns(self) -> str:
        """See RowSource."""
        return self.features


AnyMutationSource = Annotated[VariantSource | VariantFilesSource | MutationMatrixSource, Field(discriminator="layout")]


class _Reports(GapSource):
    report_id: str
    min_characters: int = 50


class ReportSource(_Reports):
    """One row per report document."""

    layout: Literal["report_table"] = "report_table"
    text: str


class DocumentsSource(CaseFilesSource, _Reports):
    """One PDF or text file per report. `ocr`: read the pages of a PDF that has pictures of text only."""

    layout: Literal["documents"]
    report_id: str = "path"
    ocr: bool = False


AnyReportSource = Annotated[
    Annotated[ReportSource, Tag("report_table")] | Annotated[DocumentsSource, Tag("documents")], _layout("report_table")
]
