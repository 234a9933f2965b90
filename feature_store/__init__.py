"""What a table, a cohort, a bag and a snapshot is; ingest and read. No torch, no Dagster."""
