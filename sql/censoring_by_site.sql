-- purpose: Share of censored cases and length of follow-up by site: sites that follow up less bias what is learned from them.
-- grain: cohort and site
-- parameters:
--   $cohort (text, optional): Only this cohort.
--   $endpoint (text, optional): os (the default), dss, dfi or pfi.
-- columns:
--   cohort: Cohort.
--   site: Tissue source site or hospital code; NULL where unknown.
--   num_cases: Cases with the endpoint.
--   num_censored: Cases without an observed event.
--   share_censored (share, 0 to 1): num_censored of num_cases.
--   share_censored_in_cohort (share, 0 to 1): The same over the whole cohort, to compare with.
--   median_days_censored (days): Median follow-up of the censored cases; NULL if there are none.
--   median_days_event (days): Median time to the event of the others; NULL if there are none.
SELECT
    c.cohort,
    c.site,
    count(*) AS num_cases,
    count(*) FILTER (NOT e.event_observed) AS num_censored,
    count(*) FILTER (NOT e.event_observed) / count(*) AS share_censored,
    sum(count(*) FILTER (NOT e.event_observed)) OVER (PARTITION BY c.cohort)
    / sum(count(*)) OVER (PARTITION BY c.cohort) AS share_censored_in_cohort,
    median(e.duration_days) FILTER (NOT e.event_observed) AS median_days_censored,
    median(e.duration_days) FILTER (e.event_observed) AS median_days_event
FROM cases AS c
JOIN endpoints AS e ON e.case_id = c.case_id AND e.endpoint = coalesce($endpoint::VARCHAR, 'os')
WHERE $cohort::VARCHAR IS NULL OR c.cohort = $cohort::VARCHAR
GROUP BY c.cohort, c.site
ORDER BY c.cohort, share_censored DESC, num_cases DESC, c.site
