-- purpose: Why rows of the sources were rejected or left out, or kept with a finding; most frequent first.
-- grain: cohort, table, effect and reason
-- parameters:
--   $cohort (text, optional): Only this cohort, and what its contract could assign to none.
-- columns:
--   cohort: Cohort; `<contract>:unassigned` where the row belongs to none.
--   table_name: Table the rows were meant for.
--   effect: What became of them: rejected, left out as the contract declares, or kept.
--   reason: Why.
--   num_rows: Rows.
--   num_ids: Distinct identifiers among them.
--   example_id: One of the identifiers, exactly as found.
--   example_path: A source it was found in, relative to the landing folder.
WITH contracts AS (
    SELECT DISTINCT contract || ':unassigned' AS scope FROM sources WHERE cohort = $cohort::VARCHAR
)
SELECT
    cohort,
    table_name,
    effect,
    reason,
    count(*) AS num_rows,
    count(DISTINCT case_id_found) AS num_ids,
    min(case_id_found) AS example_id,
    min(path) AS example_path
FROM quarantine
WHERE $cohort::VARCHAR IS NULL OR cohort = $cohort::VARCHAR OR cohort IN (SELECT scope FROM contracts)
GROUP BY cohort, table_name, effect, reason
ORDER BY num_rows DESC, cohort, table_name, effect, reason
