"""The kinds of file a landing folder can be given, and how the GDC tells them apart. A table, nothing else.

The values are the GDC's own (https://docs.gdc.cancer.gov/Encyclopedia); all of these kinds are open access.
"""

from dataclasses import dataclass

from feature_store.errors import GdcError
from feature_store.gdc.filters import Filter, all_of, equals


@dataclass(frozen=True)
class DataType:
    """A kind of file: its name here, the GDC's data type and workflow (empty: any), and whether it comes without being named."""

    name: str
    data_type: str
    workflow_type: str = ""
    is_default: bool = True

    @property
    def filter(self) -> Filter:
        """Return what holds for its files."""
        parts = [equals("data_type", self.data_type), equals("access", "open")]
        if self.workflow_type:
            parts.append(equals("analysis.workflow_type", self.workflow_type))
        return all_of(*parts)

    def includes(self, data_type: str, workflow_type: str) -> bool:
        """Say whether a file of such values is of this kind."""
        return data_type == self.data_type and self.workflow_type in {"", workflow_type}


DATA_TYPES = (
    DataType("star-counts", "Gene Expression Quantification", "STAR - Counts"),
    # of the workflows that give gene-level values from arrays the newest, so that a sample has one file
    DataType("copy-number", "Gene Level Copy Number", "ASCAT3"),
    DataType("mutations", "Masked Somatic Mutation", "Aliquot Ensemble Somatic Variant Merging and Masking"),
    DataType("protein", "Protein Expression Quantification"),
    DataType("reports", "Pathology Report"),
    DataType("biospecimen", "Biospecimen Supplement"),
    DataType("clinical", "Clinical Supplement"),
    DataType("slides", "Slide Image", is_default=False),  # hundreds of GB a project
)


def data_types(names: list[str]) -> list[DataType]:
    """Return the kinds of these names, or all default ones for none. Raises GdcError for a name that there is not."""
    known = {one.name: one for one in DATA_TYPES}
    if unknown := sorted(set(names) - set(known)):
        raise GdcError(f"data types: {unknown}, expected some of {list(known)}. Correct the name.")
    return [one for one in DATA_TYPES if (one.name in names if names else one.is_default)]
