-- purpose: Whether a gene carries a non-silent variant, for every case that was sequenced; cases that were not are left out.
-- grain: sequenced case
-- parameters: gene (text): Gene symbol, in any letter case.
-- columns:
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   cancer_type: Cancer type.
--   is_mutated: True if the case has at least one non-silent variant of the gene.
--   num_variants: How many it has.
--   variant_classifications: List of their MAF classifications, without repeats.
--   protein_changes: List of their protein changes, where known.
WITH variants AS (
    SELECT
        case_id,
        count(*) AS num_variants,
        list_sort(list(DISTINCT variant_classification)) AS variant_classifications,
        list_sort(list(DISTINCT protein_change) FILTER (protein_change IS NOT NULL)) AS protein_changes
    FROM mutations
    WHERE lower(gene_symbol) = lower(gene::VARCHAR)
    GROUP BY case_id
)
SELECT
    c.case_id,
    c.cohort,
    c.cancer_type,
    v.case_id IS NOT NULL AS is_mutated,
    coalesce(v.num_variants, 0) AS num_variants,
    coalesce(v.variant_classifications, []) AS variant_classifications,
    coalesce(v.protein_changes, []) AS protein_changes
FROM cases AS c
JOIN modality_matrix AS m ON m.case_id = c.case_id AND m.modality = 'mutations' AND m.state = 'present'
LEFT JOIN variants AS v ON v.case_id = c.case_id
