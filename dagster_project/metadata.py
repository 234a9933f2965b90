"""What the UI shows of a materialization: counts, schemas, small tables and pictures (under 60 kB). No decision is made here."""

import base64
import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import dagster as dg

if TYPE_CHECKING:
    from feature_store.audit import Check
    from feature_store.ingest.stage import Staged
    from feature_store.publish import Published
    from feature_store.sources import SourceFile
    from feature_store.tables import Table
    from mice_model.evaluation import TrainingCurve
    from mice_model.report_embedding.run import ReportsEmbedded
    from mice_model.slide_embedding.run import EmbeddingReport

Metadata = dict[str, Any]


def file_metadata(files: "Sequence[SourceFile]") -> Metadata:
    """Describe a landing folder's files."""
    return {
        "files": len(files),
        "bytes": sum(file.num_bytes for file in files),
        "first_files": dg.MetadataValue.md("\n".join(f"- `{f.relative}` {f.num_bytes:,} B" for f in files[:30])),
    }


def embedding_metadata(report: "EmbeddingReport") -> Metadata:
    """Describe embeddings: slides and patches, by whose word their scale is, why slides were refused, and one slide's picture."""
    refused = [f"- {one.name}: {one.manifest.refused}" for one in report.refused]
    pictures = [one.picture for one in sorted(report.embedded, key=lambda one: not one.is_new)][:1]
    shown = [base64.b64encode(path.read_bytes()).decode() for path in pictures if path.is_file()]
    return {
        "slides": len(report.outcomes),
        "embedded_now": sum(one.is_new for one in report.embedded),
        "patches": report.num_patches,
        "microns_per_pixel_by": ", ".join(f"{origin} {number}" for origin, number in report.mpp_origins.items()) or "none",
        "encoders": ", ".join(f"{made.name} {made.weight_sha256[:12]}" for made in report.encoders) or "none",
        "refused": dg.MetadataValue.md("\n".join(refused[:30]) or "none"),
        "slide": dg.MetadataValue.md(f"![tissue and patches](data:image/jpeg;base64,{shown[0]})" if shown else "none"),
    }


def report_metadata(done: "ReportsEmbedded | None") -> Metadata:
    """Describe what a text model made of a cohort's reports; None: the study asks for no such model."""
    if done is None:
        return {"encoder": "none asked for by the study"}
    return {
        "encoder": f"{done.encoder} {done.encoder_sha256[:12]}",
        "embedded_now": done.num_new,
        "windows": done.num_windows,
        "words_about_the_outcome": str(done.outcome_words),
    }


def staged_metadata(staged: "Staged", cohort: str) -> Metadata:
    """Describe a staged cohort: rows by table, why rows were rejected, and which modalities its cases have."""
    from feature_store.summaries import modality_counts, quarantine_reasons, row_counts
    from mice_model.evaluation import Coverage
    from mice_model.plots import coverage_png

    rows = row_counts(staged, cohort)
    reasons = quarantine_reasons(staged, cohort)
    picture = base64.b64encode(coverage_png([Coverage(cohort, *modality_counts(staged, cohort))])).decode()
    return {
        "rows": dg.MetadataValue.md("\n".join(f"- {name}: {count:,}" for name, count in rows.items())),
        "quarantined": sum(count for _, _, count in reasons),
        "quarantine": dg.MetadataValue.md("\n".join(f"- {table}: {reason}: {n:,}" for table, reason, n in reasons) or "none"),
        "coverage": dg.MetadataValue.md(f"![coverage](data:image/png;base64,{picture})"),
        "identifiers_normalised": staged.num_normalised,
    }


def check_results(checks: "Sequence[Check]") -> list[dg.AssetCheckResult]:
    """Turn audit results into asset check results."""
    return [dg.AssetCheckResult(check_name=check.name, passed=check.is_passed, description=check.found) for check in checks]


def table_metadata(table: "Table", published: "Published") -> Metadata:
    """Describe a published table: schema, rows of this cohort, whether it changed."""
    columns = [
        dg.TableColumn(
            column.name,
            column.sql_type,
            description=column.comment,
            constraints=dg.TableColumnConstraints(nullable=not column.is_required, unique=table.key == (column.name,)),
        )
        for column in table.columns
    ]
    return {
        "dagster/column_schema": dg.TableSchema(columns),
        "dagster/partition_row_count": published.num_rows[table.name],
        "changed": table.name in published.changed,
        **({} if published.snapshot_id is None else {"snapshot": published.snapshot_id}),
    }


def curve_metadata(curves: "Sequence[TrainingCurve]") -> Metadata:
    """Describe fits: how many, the chosen epochs, the inner C-index they were chosen by."""
    lines = [
        f"| {c.fold} | {c.seed} | {c.cancer_type or 'all'} | {c.chosen_epoch} of {len(c.train_loss)} | "
        f"{(math.nan, *c.train_loss)[c.chosen_epoch]:.3f} | {(c.start_c_index, *c.inner_c_index)[c.chosen_epoch]:.3f} |"
        for c in curves
    ]
    head = ["| fold | seed | cancer type | epoch | training loss | inner C-index |", "|---|---|---|---|---|---|"]
    return {"networks": len(curves), "fits": dg.MetadataValue.md("\n".join(head + lines))}


def evaluation_metadata(summary: Metadata, report: Path) -> Metadata:
    """Describe an evaluation: the C-index table and where the report is."""
    models = summary["models"]
    lines = ["| cancer type | " + " | ".join(models) + " |", "|---" * (len(models) + 1) + "|"]
    for name, row in summary["c_index"].items():
        cells = [f"{row[m]['c_index']:.3f}" if m in row and row[m]["c_index"] is not None else "–" for m in models]
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return {
        "c_index": dg.MetadataValue.md("\n".join(lines)),
        "report": dg.MetadataValue.path(str(report)),
        "mean_c_index": summary["c_index"]["mean"]["mice"]["c_index"],
    }
