-- purpose: Which overlapping experts a cancer type is routed to, by the latest model of each study.
-- grain: study, cancer type and overlapping expert
-- parameters:
--   $study (text, optional): Only this study.
-- columns:
--   study: Name of the study.
--   cancer_type: Cancer type.
--   expert: Number of the overlapping expert, from 1, in the order of the study's ranks.
--   mean_weight (weight, 0 to 1): Mean over cases; the weights of a case need not add up to 1.
--   share_routed (share, 0 to 1): Cases with a weight above zero.
--   num_cases: Held-out cases.
WITH weights AS (
    SELECT p.study, p.cancer_type, generate_subscripts(p.experts, 1) AS expert, unnest(p.experts) AS weight
    FROM predictions AS p
    JOIN latest_models AS l ON l.study = p.study AND l.model_version = p.model_version
    WHERE $study::VARCHAR IS NULL OR p.study = $study::VARCHAR
)
SELECT
    study,
    cancer_type,
    expert,
    avg(weight) AS mean_weight,
    count(*) FILTER (weight > 0) / count(*) AS share_routed,
    count(*) AS num_cases
FROM weights
GROUP BY study, cancer_type, expert
ORDER BY study, cancer_type, expert
