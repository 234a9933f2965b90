-- purpose: MICE against the baselines: held-out C-index of the latest evaluation of each study.
-- grain: study, cancer type and model
-- parameters:
--   $study (text, optional): Only this study.
-- columns:
--   study: Name of the study.
--   model_version: Content hash of the trained model.
--   cancer_type: Cancer type.
--   model: mice, or the baseline's name.
--   c_index: Harrell's C on held-out cases, mean over folds.
--   c_index_low: Lower bound of the 95% bootstrap interval.
--   c_index_high: Upper bound of it.
--   difference_to_mice: c_index less that of mice; below zero where mice is better.
--   rank: 1 is the best of its study and cancer type.
--   num_cases: Held-out cases.
--   num_events: Events among them.
SELECT
    e.study,
    e.model_version,
    e.cancer_type,
    e.model,
    e.c_index,
    e.c_index_low,
    e.c_index_high,
    e.c_index - max(e.c_index) FILTER (e.model = 'mice') OVER of_type AS difference_to_mice,
    rank() OVER (of_type ORDER BY e.c_index DESC NULLS LAST) AS "rank",
    e.num_cases,
    e.num_events
FROM evaluations AS e
JOIN latest_models AS l ON l.study = e.study AND l.model_version = e.model_version
WHERE $study::VARCHAR IS NULL OR e.study = $study::VARCHAR
WINDOW of_type AS (PARTITION BY e.study, e.cancer_type)
ORDER BY e.study, e.cancer_type, "rank", e.model
