"""Whole-slide images: opening them, their scale, tissue, the grid of patches, decoding, and what an embedding run keeps.

Nothing here knows an encoder's inside (mice_model/slide_embedding/) or a contract's other sources (ingest/).
"""
