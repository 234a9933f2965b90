-- purpose: Do cases the model called risky fare worse? Events by third of predicted risk, thirds taken within each fold.
-- grain: study, cancer type and third of risk
-- parameters:
--   $study (text, optional): Only this study.
-- columns:
--   study: Name of the study.
--   cancer_type: Cancer type.
--   risk_third: 1 lowest, 2 middle, 3 highest; within a fold, since scores of different folds are not comparable.
--   num_cases: Held-out cases.
--   num_events: Observed events among them.
--   share_events (share, 0 to 1): num_events of num_cases.
--   events_per_100_case_years (events per 100 years observed): Rate that allows for unequal follow-up.
--   median_days (days): Median time to event or censoring.
WITH thirds AS (
    SELECT
        *,
        ntile(3) OVER (PARTITION BY study, cancer_type, fold ORDER BY risk_score, case_id) AS risk_third
    FROM risk
    WHERE duration_days IS NOT NULL AND ($study::VARCHAR IS NULL OR study = $study::VARCHAR)
)
SELECT
    study,
    cancer_type,
    risk_third,
    count(*) AS num_cases,
    count(*) FILTER (event_observed) AS num_events,
    count(*) FILTER (event_observed) / count(*) AS share_events,
    100 * count(*) FILTER (event_observed) / (sum(duration_days) / 365.25) AS events_per_100_case_years,
    median(duration_days) AS median_days
FROM thirds
GROUP BY study, cancer_type, risk_third
ORDER BY study, cancer_type, risk_third
