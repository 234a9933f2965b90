-- purpose: Everything about a case on one line: who, overall survival, baseline clinical variables, which modalities it has.
-- grain: case
-- parameters: none
-- columns:
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   project_id: Project of the source.
--   cancer_type: Cancer type.
--   site: Tissue source site or hospital code.
--   os_days (days): Time from time zero to death or to censoring; NULL without the endpoint.
--   os_years (years of 365.25 days): The same.
--   os_event_observed: True if the case died, false if it is censored.
--   age_at_diagnosis_years (years): Age at diagnosis.
--   sex: Sex as recorded.
--   stage: Tumour stage as an ordinal, 0 and I = 1 to IV = 4.
--   grade: Histological grade as an ordinal, 1 to 4.
--   histology: Histological type as recorded by the source.
--   diagnosis_year (year): Calendar year of diagnosis.
--   modalities: List of the modalities that are present, sorted by name.
--   num_modalities: Length of that list.
--   num_slides: Slides with patch embeddings.
--   num_patches: Patches of these slides, of all encoders.
WITH present AS (
    SELECT case_id, list(modality ORDER BY modality) AS modalities
    FROM modality_matrix
    WHERE state = 'present'
    GROUP BY case_id
),
bags AS (
    SELECT case_id, count(DISTINCT slide_id) AS num_slides, sum(num_patches)::BIGINT AS num_patches
    FROM patch_bags
    GROUP BY case_id
)
SELECT
    c.case_id,
    c.cohort,
    c.project_id,
    c.cancer_type,
    c.site,
    e.duration_days AS os_days,
    e.duration_days / 365.25 AS os_years,
    e.event_observed AS os_event_observed,
    k.age_at_diagnosis_years,
    k.sex,
    k.stage,
    k.grade,
    k.histology,
    k.diagnosis_year,
    coalesce(p.modalities, []) AS modalities,
    coalesce(len(p.modalities), 0) AS num_modalities,
    coalesce(b.num_slides, 0) AS num_slides,
    coalesce(b.num_patches, 0) AS num_patches
FROM cases AS c
LEFT JOIN endpoints AS e ON e.case_id = c.case_id AND e.endpoint = 'os'
LEFT JOIN clinical AS k ON k.case_id = c.case_id
LEFT JOIN present AS p ON p.case_id = c.case_id
LEFT JOIN bags AS b ON b.case_id = c.case_id
