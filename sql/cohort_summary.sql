-- purpose: Size, events and follow-up of each cancer type; follow-up is the reverse Kaplan-Meier median.
-- grain: cohort and cancer type
-- parameters:
--   $cohort (text, optional): Only this cohort.
--   $endpoint (text, optional): os (the default), dss, dfi or pfi.
-- columns:
--   cohort: Cohort.
--   cancer_type: Cancer type.
--   num_cases: Cases.
--   num_with_endpoint: Cases with the endpoint.
--   num_events: Observed events among them.
--   share_events (share, 0 to 1): num_events of num_with_endpoint.
--   median_follow_up_days (days): First day by which the Kaplan-Meier curve of being censored (events count as losses) is at most one half; NULL if never.
--   longest_days (days): Longest time observed.
WITH outcomes AS (
    SELECT c.cohort, c.cancer_type, e.duration_days, e.event_observed
    FROM cases AS c
    LEFT JOIN endpoints AS e ON e.case_id = c.case_id AND e.endpoint = coalesce($endpoint::VARCHAR, 'os')
    WHERE $cohort::VARCHAR IS NULL OR c.cohort = $cohort::VARCHAR
),
days AS (
    SELECT cohort, cancer_type, duration_days, count(*) AS num_leaving, count(*) FILTER (NOT event_observed) AS num_censored
    FROM outcomes
    WHERE duration_days IS NOT NULL
    GROUP BY ALL
),
at_risk AS (
    SELECT *, sum(num_leaving) OVER (PARTITION BY cohort, cancer_type ORDER BY duration_days DESC) AS num_at_risk
    FROM days
),
curve AS (
    SELECT
        *,
        product(1 - num_censored / num_at_risk) OVER (PARTITION BY cohort, cancer_type ORDER BY duration_days) AS share_followed
    FROM at_risk
),
follow_up AS (
    SELECT cohort, cancer_type, min(duration_days) FILTER (share_followed <= 0.5 + 1e-12) AS median_follow_up_days
    FROM curve
    GROUP BY ALL
)
SELECT
    o.cohort,
    o.cancer_type,
    count(*) AS num_cases,
    count(o.duration_days) AS num_with_endpoint,
    count(*) FILTER (o.event_observed) AS num_events,
    count(*) FILTER (o.event_observed) / nullif(count(o.duration_days), 0) AS share_events,
    any_value(f.median_follow_up_days) AS median_follow_up_days,
    max(o.duration_days) AS longest_days
FROM outcomes AS o
LEFT JOIN follow_up AS f ON f.cohort = o.cohort AND f.cancer_type = o.cancer_type
GROUP BY o.cohort, o.cancer_type
ORDER BY o.cohort, o.cancer_type
