-- purpose: What mapping the sources' feature names to symbols lost, panel by panel; nothing where the contract maps no names.
-- grain: cohort and panel
-- parameters:
--   $cohort (text, optional): Only this cohort.
-- columns:
--   cohort: Cohort that uses the panel.
--   modality: rna or copy_number.
--   panel_id: Content hash of the panel's ordered feature names.
--   num_found: Features of the source.
--   num_features: Features of the panel.
--   num_unmapped: Features left out for want of a name.
--   num_ambiguous: Features left out because they have several names.
--   num_colliding: Features left out because several of them have one name.
--   share_lost (share, 0 to 1): Those left out of num_found.
--   examples: List of some of those left out, as the source has them; NULL if there are none.
WITH panels AS (
    SELECT cohort, modality, panel_id, count(*) AS num_features
    FROM gene_panels
    WHERE $cohort::VARCHAR IS NULL OR cohort = $cohort::VARCHAR
    GROUP BY ALL
),
mapped AS (
    SELECT
        cohort,
        modality,
        panel_id,
        count(*) AS num_found,
        count(*) FILTER (state = 'unmapped') AS num_unmapped,
        count(*) FILTER (state = 'ambiguous') AS num_ambiguous,
        count(*) FILTER (state = 'collides') AS num_colliding,
        min(feature_found, 5) FILTER (state <> 'mapped') AS examples
    FROM feature_mapping
    GROUP BY ALL
)
SELECT
    p.cohort,
    p.modality,
    p.panel_id,
    coalesce(m.num_found, p.num_features) AS num_found,
    p.num_features,
    coalesce(m.num_unmapped, 0) AS num_unmapped,
    coalesce(m.num_ambiguous, 0) AS num_ambiguous,
    coalesce(m.num_colliding, 0) AS num_colliding,
    coalesce((m.num_unmapped + m.num_ambiguous + m.num_colliding) / m.num_found, 0) AS share_lost,
    m.examples
FROM panels AS p
LEFT JOIN mapped AS m ON m.cohort = p.cohort AND m.modality = p.modality AND m.panel_id = p.panel_id
ORDER BY share_lost DESC, p.cohort, p.modality, p.panel_id
