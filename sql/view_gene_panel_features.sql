-- purpose: Which genes and chromosome arms can be asked for, in which unit, and for how many cases.
-- grain: cohort, panel and feature
-- parameters: none
-- columns:
--   cohort: Cohort that uses the panel.
--   modality: rna or copy_number.
--   panel_id: Content hash of the panel's ordered feature names.
--   position: 0-based position in the panel's vectors (SQL lists count from 1).
--   feature: Gene symbol or chromosome arm.
--   unit: Unit of the values, as the contract declares it.
--   num_cases: Cases of the cohort with a vector of this panel.
WITH vectors AS (
    SELECT 'rna' AS modality, cohort, panel_id, count(*) AS num_cases FROM rna GROUP BY ALL
    UNION ALL
    SELECT 'copy_number', cohort, panel_id, count(*) FROM copy_number GROUP BY ALL
)
SELECT p.cohort, p.modality, p.panel_id, p.position, p.feature, p.unit, coalesce(v.num_cases, 0) AS num_cases
FROM gene_panels AS p
LEFT JOIN vectors AS v ON v.modality = p.modality AND v.cohort = p.cohort AND v.panel_id = p.panel_id
