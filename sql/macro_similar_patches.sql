-- purpose: The patches of all slides that look most like one patch: cosine similarity of their embeddings, by the same encoder.
-- grain: patch and encoder, best first; the patch itself is left out
-- parameters:
--   slide (text): Slide identifier: a literal or a parameter, not a column.
--   patch_x (integer): Left edge of the patch, level-0 pixels.
--   patch_y (integer): Upper edge of the patch, level-0 pixels.
--   num_patches (integer): How many to return: a literal or a parameter.
-- columns:
--   slide_id: Slide of the similar patch.
--   case_id: Case identifier.
--   cancer_type: Cancer type.
--   encoder: Patch encoder that made both embeddings.
--   x (level-0 pixels): Left edge of the patch.
--   y (level-0 pixels): Upper edge of the patch.
--   similarity (cosine, -1 to 1): 1 is the same direction; a patch of zeros has none and gets -1.
WITH asked AS (
    SELECT
        b.encoder,
        CASE
            WHEN count(p.embedding) > 0 THEN any_value(p.embedding)
            ELSE error('similar_patches: no patch at ' || patch_x || ', ' || patch_y || ' of slide ' || slide)
        END AS embedding
    FROM patch_bags AS b
    LEFT JOIN read_parquet(getvariable('bag_shards')[slide::VARCHAR]) AS p
        ON p.slide_id = b.slide_id AND parse_filename(p.filename) = b.shard AND p.x = patch_x::INTEGER AND p.y = patch_y::INTEGER
    WHERE b.slide_id = slide::VARCHAR
    GROUP BY b.encoder
),
compared AS (
    SELECT p.slide_id, p.case_id, b.cohort, b.encoder, p.x, p.y, list_cosine_similarity(p.embedding, a.embedding) AS similarity
    FROM read_parquet(  -- takes no subquery: feature_store/analyst.py sets the maps
        list_distinct(flatten(flatten(list_transform(
            coalesce(
                getvariable('bag_shards')[slide::VARCHAR],
                error('similar_patches: no bag of slide ' || coalesce(slide::VARCHAR, 'NULL') || ' in this snapshot')
            ),
            lambda shard: list_transform(
                getvariable('shard_encoders')[shard], lambda encoder: getvariable('encoder_shards')[encoder]
            )
        ))))
    ) AS p
    JOIN patch_bags AS b ON b.slide_id = p.slide_id AND b.shard = parse_filename(p.filename)
    JOIN asked AS a ON a.encoder = b.encoder
    WHERE NOT (p.slide_id = slide::VARCHAR AND p.x = patch_x::INTEGER AND p.y = patch_y::INTEGER)
),
best AS (
    SELECT *
    FROM compared
    ORDER BY similarity DESC, slide_id, x, y
    LIMIT num_patches
)
SELECT n.slide_id, n.case_id, c.cancer_type, n.encoder, n.x, n.y, n.similarity
FROM best AS n
JOIN cases AS c ON c.case_id = n.case_id AND c.cohort = n.cohort
ORDER BY n.similarity DESC, n.slide_id, n.x, n.y
