"""Patch embeddings of whole slides: encoders behind one interface, and the run that applies them, slide by slide.

Decoding and what is kept on disk is feature_store/slides/; nothing of training is here, and training imports nothing of this.
"""
