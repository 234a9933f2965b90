-- purpose: Share of cases with each modality by cancer type, and how many cases have all six.
-- grain: cohort and cancer type
-- parameters:
--   $cohort (text, optional): Only this cohort.
-- columns:
--   cohort: Cohort.
--   cancer_type: Cancer type.
--   num_cases: Cases.
--   num_complete: Cases with all six modalities.
--   share_clinical (share, 0 to 1): Cases with clinical variables.
--   share_rna (share, 0 to 1): Cases with gene expression.
--   share_copy_number (share, 0 to 1): Cases with copy number.
--   share_mutations (share, 0 to 1): Cases that were sequenced.
--   share_report (share, 0 to 1): Cases with a pathology report.
--   share_slide (share, 0 to 1): Cases with patch embeddings.
WITH flags AS (
    SELECT
        c.case_id,
        c.cohort,
        c.cancer_type,
        count(*) FILTER (m.state = 'present') AS num_present,
        count(*) FILTER (m.state = 'present' AND m.modality = 'clinical') AS clinical,
        count(*) FILTER (m.state = 'present' AND m.modality = 'rna') AS rna,
        count(*) FILTER (m.state = 'present' AND m.modality = 'copy_number') AS copy_number,
        count(*) FILTER (m.state = 'present' AND m.modality = 'mutations') AS mutations,
        count(*) FILTER (m.state = 'present' AND m.modality = 'report') AS report,
        count(*) FILTER (m.state = 'present' AND m.modality = 'slide') AS slide
    FROM cases AS c
    LEFT JOIN modality_matrix AS m ON m.case_id = c.case_id
    WHERE $cohort::VARCHAR IS NULL OR c.cohort = $cohort::VARCHAR
    GROUP BY ALL
)
SELECT
    cohort,
    cancer_type,
    count(*) AS num_cases,
    count(*) FILTER (num_present = 6) AS num_complete,
    avg(clinical) AS share_clinical,
    avg(rna) AS share_rna,
    avg(copy_number) AS share_copy_number,
    avg(mutations) AS share_mutations,
    avg(report) AS share_report,
    avg(slide) AS share_slide
FROM flags
GROUP BY cohort, cancer_type
ORDER BY cohort, cancer_type
