-- purpose: What the latest model of each study said about a case it had not seen, beside what happened to the case.
-- grain: study and held-out case
-- parameters: none
-- columns:
--   study: Name of the study.
--   model_version: Content hash of the trained model.
--   case_id: Case identifier.
--   cohort: Cohort the case belongs to.
--   cancer_type: Cancer type.
--   fold: Fold in which the case was held out.
--   risk_score: Out-of-fold risk; higher is worse; comparable within one study, cancer type and fold only.
--   survival (probability): List: predicted survival at the end of each time bin.
--   bin_edges_days (days): List: inner edges of the time bins.
--   missing_modalities: Comma-separated modalities the case lacked.
--   endpoint: Endpoint that was predicted.
--   duration_days (days): Time to the event or to censoring; NULL if the endpoint has been withdrawn since.
--   event_observed: True if the event happened.
SELECT
    p.study,
    p.model_version,
    p.case_id,
    p.cohort,
    p.cancer_type,
    p.fold,
    p.risk_score,
    p.survival,
    p.bin_edges_days,
    p.missing_modalities,
    p.endpoint,
    e.duration_days,
    e.event_observed
FROM predictions AS p
JOIN latest_models AS l ON l.study = p.study AND l.model_version = p.model_version
LEFT JOIN endpoints AS e ON e.case_id = p.case_id AND e.endpoint = p.endpoint
