-- purpose: A gene's expression across all cases with RNA data, each value taken from the place its panel gives the gene.
-- grain: case and panel that holds the feature (one panel per case, as a rule)
-- parameters: gene (text): Gene symbol, in any letter case.
-- columns:
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   cancer_type: Cancer type.
--   value (as column unit says): Expression; NULL where the source has none.
--   unit: Unit of the value, as the cohort's contract declares it.
WITH found AS (  -- the value alone goes on: the vectors would fill the join's memory
    SELECT v.case_id, v.cohort, nullif(v."values"[p.position + 1], 'NaN'::FLOAT) AS "value", p.unit
    FROM gene_panels AS p
    JOIN rna AS v ON v.cohort = p.cohort AND v.panel_id = p.panel_id
    WHERE p.modality = 'rna' AND lower(p.feature) = lower(gene::VARCHAR)
)
SELECT f.case_id, f.cohort, c.cancer_type, f."value", f.unit
FROM found AS f
JOIN cases AS c ON c.case_id = f.case_id
