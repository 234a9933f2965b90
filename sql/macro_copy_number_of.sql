-- purpose: A gene's or a chromosome arm's copy number across all cases with copy-number data.
-- grain: case and panel that holds the feature (one panel per case, as a rule)
-- parameters: arm_or_gene (text): Chromosome arm (17p) or gene symbol, in any letter case.
-- columns:
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   cancer_type: Cancer type.
--   value (as column unit says): Copy number; NULL where the source has none.
--   unit: Unit of the value, as the cohort's contract declares it.
WITH found AS (  -- a row per cohort and panel, its values in order of case_id
    SELECT cohort, panel_id, unit, unnest("values") AS "value", generate_subscripts("values", 1) AS place
    FROM copy_number_by_feature
    WHERE feature_lookup = lower(arm_or_gene::VARCHAR)
),
placed AS (
    SELECT case_id, cohort, panel_id, row_number() OVER (PARTITION BY cohort, panel_id ORDER BY case_id) AS place
    FROM copy_number
)
SELECT p.case_id, p.cohort, c.cancer_type, nullif(f."value", 'NaN'::FLOAT) AS "value", f.unit
FROM found AS f
JOIN placed AS p ON p.cohort = f.cohort AND p.panel_id = f.panel_id AND p.place = f.place
JOIN cases AS c ON c.case_id = p.case_id
