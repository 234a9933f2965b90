-- purpose: How many cases of a cohort have a modality, and why the others lack it.
-- grain: cohort and modality
-- parameters: none
-- columns:
--   cohort: Cohort.
--   modality: Input modality.
--   num_cases: Cases of the cohort.
--   num_present: Cases that have the modality.
--   share_present (share, 0 to 1): num_present of num_cases.
--   num_absent: Cases for which the source has none.
--   num_failed_check: Cases whose data was rejected (table quarantine says why).
--   num_withdrawn: Cases whose data was withdrawn.
SELECT
    cohort,
    modality,
    count(*) AS num_cases,
    count(*) FILTER (state = 'present') AS num_present,
    count(*) FILTER (state = 'present') / count(*) AS share_present,
    count(*) FILTER (state = 'absent') AS num_absent,
    count(*) FILTER (state = 'failed_check') AS num_failed_check,
    count(*) FILTER (state = 'withdrawn') AS num_withdrawn
FROM modality_matrix
GROUP BY cohort, modality
