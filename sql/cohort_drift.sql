-- purpose: How a cohort differs from a reference: baseline variables, cancer types, which modalities there are, events and follow-up.
-- grain: cohort and variable
-- parameters:
--   $reference_cohort (text, optional): Cohort to compare with; all cohorts together by default.
--   $cohort (text, optional): Only this cohort; each one by default.
--   $endpoint (text, optional): os (the default), dss, dfi or pfi.
-- columns:
--   reference_cohort: Cohort compared with; NULL for all together.
--   cohort: Cohort.
--   variable: What is compared; share_<modality> is the share of cases that have it.
--   num_reference: Cases of the reference with a value.
--   num_cohort: Cases of the cohort with a value.
--   level: Of a variable of categories: the one whose shares differ most, which the two values then are.
--   value_reference (as column variable says): Mean, share, or median follow-up in days (reverse Kaplan-Meier) of the reference.
--   value_cohort (as column variable says): The same of the cohort.
--   measure: What the statistic is: standardised mean difference, total variation distance, difference of shares, relative difference.
--   statistic: Above zero where the cohort's value is higher; a total variation distance is 0 to 1 without a direction.
--   reading: similar (under 0.1 either way), differs (under 0.25), differs strongly, or not comparable.
WITH compared AS (
    SELECT DISTINCT cohort
    FROM cases
    WHERE ($cohort::VARCHAR IS NULL OR cohort = $cohort::VARCHAR) AND cohort IS DISTINCT FROM $reference_cohort::VARCHAR
),
members AS (
    SELECT o.cohort, c.cohort AS own_cohort, c.case_id, c.cancer_type, false AS is_reference
    FROM compared AS o
    JOIN cases AS c ON c.cohort = o.cohort
    UNION ALL
    SELECT o.cohort, c.cohort, c.case_id, c.cancer_type, true
    FROM compared AS o
    JOIN cases AS c ON $reference_cohort::VARCHAR IS NULL OR c.cohort = $reference_cohort::VARCHAR
),
described AS (
    SELECT m.*, k.age_at_diagnosis_years, k.stage, k.grade, k.sex, e.duration_days, e.event_observed
    FROM members AS m
    LEFT JOIN clinical AS k ON k.case_id = m.case_id AND k.cohort = m.own_cohort
    LEFT JOIN endpoints AS e
        ON e.case_id = m.case_id AND e.cohort = m.own_cohort AND e.endpoint = coalesce($endpoint::VARCHAR, 'os')
),
numbers AS (
    SELECT cohort, is_reference, 'age_at_diagnosis_years' AS variable, age_at_diagnosis_years AS "value" FROM described
    UNION ALL
    SELECT cohort, is_reference, 'stage', stage FROM described
    UNION ALL
    SELECT cohort, is_reference, 'grade', grade FROM described
),
means AS (
    SELECT
        cohort,
        variable,
        count("value") FILTER (is_reference) AS num_reference,
        count("value") FILTER (NOT is_reference) AS num_cohort,
        NULL AS level,
        avg("value") FILTER (is_reference) AS value_reference,
        avg("value") FILTER (NOT is_reference) AS value_cohort,
        'standardised mean difference' AS measure,
        (value_cohort - value_reference) / nullif(
            sqrt((var_samp("value") FILTER (is_reference) + var_samp("value") FILTER (NOT is_reference)) / 2), 0
        ) AS statistic
    FROM numbers
    GROUP BY cohort, variable
),
categories AS (
    SELECT cohort, is_reference, 'sex' AS variable, sex AS level FROM described
    UNION ALL
    SELECT cohort, is_reference, 'cancer_type', cancer_type FROM described
),
counted AS (
    SELECT
        cohort,
        variable,
        level,
        count(*) FILTER (is_reference) AS num_reference,
        count(*) FILTER (NOT is_reference) AS num_cohort
    FROM categories
    WHERE level IS NOT NULL
    GROUP BY cohort, variable, level
),
shares AS (
    SELECT
        *,
        num_reference / nullif(sum(num_reference) OVER (PARTITION BY cohort, variable), 0) AS share_reference,
        num_cohort / nullif(sum(num_cohort) OVER (PARTITION BY cohort, variable), 0) AS share_cohort,
        abs(share_cohort - share_reference) AS gap
    FROM counted
),
distances AS (
    SELECT
        cohort,
        variable,
        sum(num_reference) AS num_reference,
        sum(num_cohort) AS num_cohort,
        first(level ORDER BY round(gap, 9) DESC, level) AS level,
        first(share_reference ORDER BY round(gap, 9) DESC, level) AS value_reference,
        first(share_cohort ORDER BY round(gap, 9) DESC, level) AS value_cohort,
        'total variation distance' AS measure,
        sum(gap) / 2 AS statistic
    FROM shares
    GROUP BY cohort, variable
),
flags AS (
    SELECT m.cohort, m.is_reference, 'share_' || x.modality AS variable, x.state = 'present' AS flag
    FROM members AS m
    JOIN modality_matrix AS x ON x.case_id = m.case_id AND x.cohort = m.own_cohort
    UNION ALL
    SELECT cohort, is_reference, 'share_events', event_observed FROM described
),
differences AS (
    SELECT
        cohort,
        variable,
        count(flag) FILTER (is_reference) AS num_reference,
        count(flag) FILTER (NOT is_reference) AS num_cohort,
        NULL AS level,
        avg(flag::INTEGER) FILTER (is_reference) AS value_reference,
        avg(flag::INTEGER) FILTER (NOT is_reference) AS value_cohort,
        'difference of shares' AS measure,
        value_cohort - value_reference AS statistic
    FROM flags
    GROUP BY cohort, variable
),
days AS (
    SELECT cohort, is_reference, duration_days, count(*) AS num_leaving, count(*) FILTER (NOT event_observed) AS num_censored
    FROM described
    WHERE duration_days IS NOT NULL
    GROUP BY ALL
),
at_risk AS (
    SELECT *, sum(num_leaving) OVER (PARTITION BY cohort, is_reference ORDER BY duration_days DESC) AS num_at_risk
    FROM days
),
curve AS (
    SELECT
        *,
        product(1 - num_censored / num_at_risk) OVER (PARTITION BY cohort, is_reference ORDER BY duration_days) AS share_followed
    FROM at_risk
),
follow_up AS (
    SELECT
        cohort,
        'median_follow_up_days' AS variable,
        sum(num_leaving) FILTER (is_reference) AS num_reference,
        sum(num_leaving) FILTER (NOT is_reference) AS num_cohort,
        NULL AS level,
        min(duration_days) FILTER (is_reference AND share_followed <= 0.5 + 1e-12) AS value_reference,
        min(duration_days) FILTER (NOT is_reference AND share_followed <= 0.5 + 1e-12) AS value_cohort,
        'relative difference' AS measure,
        value_cohort / nullif(value_reference, 0) - 1 AS statistic
    FROM curve
    GROUP BY cohort
),
found AS (
    SELECT 1 AS place, * FROM means
    UNION ALL
    SELECT 2, * FROM distances
    UNION ALL
    SELECT 3, * FROM differences
    UNION ALL
    SELECT 4, * FROM follow_up
)
SELECT
    $reference_cohort::VARCHAR AS reference_cohort,
    cohort,
    variable,
    coalesce(num_reference, 0)::BIGINT AS num_reference,
    coalesce(num_cohort, 0)::BIGINT AS num_cohort,
    level,
    value_reference,
    value_cohort,
    measure,
    statistic,
    CASE
        WHEN statistic IS NULL THEN 'not comparable'
        WHEN abs(statistic) < 0.1 THEN 'similar'
        WHEN abs(statistic) < 0.25 THEN 'differs'
        ELSE 'differs strongly'
    END AS reading
FROM found
WHERE $reference_cohort::VARCHAR IS NULL OR EXISTS (FROM cases WHERE cohort = $reference_cohort::VARCHAR)
ORDER BY cohort, place, variable
