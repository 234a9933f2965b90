-- purpose: A slide's patches with their embeddings, read from the one bag shard that holds the slide.
-- grain: patch and encoder
-- parameters: slide (text): Slide identifier: a literal or a parameter, not a column.
-- columns:
--   slide_id: Slide identifier.
--   case_id: Case identifier.
--   encoder: Patch encoder that made the embedding.
--   x (level-0 pixels): Left edge of the patch.
--   y (level-0 pixels): Upper edge of the patch.
--   embedding: FLOAT list of the encoder's width; cast to FLOAT[width] for the array functions.
SELECT p.slide_id, p.case_id, b.encoder, p.x, p.y, p.embedding
FROM read_parquet(  -- takes no subquery, so feature_store/analyst.py sets bag_shards: slide -> paths of its shards
    coalesce(
        getvariable('bag_shards')[slide::VARCHAR],
        error('patches_of: no bag of slide ' || coalesce(slide::VARCHAR, 'NULL') || ' in this snapshot')
    )
) AS p
JOIN patch_bags AS b ON b.slide_id = p.slide_id AND b.shard = parse_filename(p.filename)
WHERE p.slide_id = slide::VARCHAR
