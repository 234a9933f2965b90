-- purpose: A gene's or a chromosome arm's copy number across all cases with copy-number data.
-- grain: case and panel that holds the feature (one panel per case, as a rule)
-- parameters: arm_or_gene (text): Chromosome arm (17p) or gene symbol, in any letter case.
-- columns:
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   cancer_type: Cancer type.
--   value (as column unit says): Copy number; NULL where the source has none.
--   unit: Unit of the value, as the cohort's contract declares it.
WITH found AS (  -- the value alone goes on: the vectors would fill the join's memory
    SELECT v.case_id, v.cohort, nullif(v."values"[p.position + 1], 'NaN'::FLOAT) AS "value", p.unit
    FROM gene_panels AS p
    JOIN copy_number AS v ON v.cohort = p.cohort AND v.panel_id = p.panel_id
    WHERE p.modality = 'copy_number' AND lower(p.feature) = lower(arm_or_gene::VARCHAR)
)
SELECT f.case_id, f.cohort, c.cancer_type, f."value", f.unit
FROM found AS f
JOIN cases AS c ON c.case_id = f.case_id
