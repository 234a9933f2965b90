-- purpose: The model version of each study whose predictions were published last.
-- grain: study
-- parameters: none
-- columns:
--   study: Name of the study (studies/<name>.yaml).
--   model_version: Content hash of the trained model.
--   published_at (UTC, ISO 8601): When its predictions were published.
--   num_cases: Held-out cases with a prediction.
WITH versions AS (
    SELECT p.study, p.model_version, w.written_at, count(*) AS num_cases
    FROM predictions AS p
    JOIN publications AS w ON w.scope = p.model_version AND w.table_name = 'predictions'
    GROUP BY ALL
)
SELECT study, model_version, written_at AS published_at, num_cases
FROM versions
QUALIFY row_number() OVER (PARTITION BY study ORDER BY written_at DESC, model_version) = 1
