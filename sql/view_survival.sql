-- purpose: All endpoints of a case side by side; NULL where the source has no such endpoint for the case.
-- grain: case
-- parameters: none
-- columns:
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   cancer_type: Cancer type.
--   os_days (days): Overall survival: time to death of any cause or to censoring.
--   os_event_observed: True if the case died.
--   dss_days (days): Disease-specific survival: time to death of the cancer or to censoring.
--   dss_event_observed: True if the case died of the cancer.
--   dfi_days (days): Disease-free interval: time to recurrence or to censoring.
--   dfi_event_observed: True if the disease came back.
--   pfi_days (days): Progression-free interval: time to progression or to censoring.
--   pfi_event_observed: True if the disease progressed.
SELECT
    c.case_id,
    c.cohort,
    c.cancer_type,
    max(e.duration_days) FILTER (e.endpoint = 'os') AS os_days,
    bool_or(e.event_observed) FILTER (e.endpoint = 'os') AS os_event_observed,
    max(e.duration_days) FILTER (e.endpoint = 'dss') AS dss_days,
    bool_or(e.event_observed) FILTER (e.endpoint = 'dss') AS dss_event_observed,
    max(e.duration_days) FILTER (e.endpoint = 'dfi') AS dfi_days,
    bool_or(e.event_observed) FILTER (e.endpoint = 'dfi') AS dfi_event_observed,
    max(e.duration_days) FILTER (e.endpoint = 'pfi') AS pfi_days,
    bool_or(e.event_observed) FILTER (e.endpoint = 'pfi') AS pfi_event_observed
FROM cases AS c
LEFT JOIN endpoints AS e ON e.case_id = c.case_id
GROUP BY c.case_id, c.cohort, c.cancer_type
