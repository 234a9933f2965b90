"""The offline report encoder: TF-IDF over one- and two-word terms, then a truncated SVD, both fitted on training cases only.

Counting terms is no fit, so it is done once for all reports; choosing the vocabulary, weighting and projecting is, so a fitted
encoder looks at its training rows only. What is saved is what is needed to encode a new report.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray
from scipy import sparse
from sklearn.feature_extraction.text import CountVectorizer
from sklearn.utils.extmath import randomized_svd

from mice_model.positions import shared_positions

# Words of two letters and more, and what pathologists write as codes: T, N and M, alone or together, grades and stages. Other
# digits and single letters mean nothing: OCR leaves many.
_TOKEN = r"(?u)\b(?:[a-z][a-z]+|p?[tnm][0-4x][a-d]?|p?t[0-4][a-d]?n[0-3x][a-c]?m?[01x]?|g[1-4]|i{1,3}[abc]?|iv[abc]?)\b"  # noqa: S105


@dataclass(frozen=True)
class TermCounts:
    """Term counts of n reports, (n, terms) sparse; a row without a report is empty, `is_present` (n,) says which."""

    counts: sparse.csr_matrix
    terms: NDArray[np.str_]
    is_present: NDArray[np.bool_]

    @classmethod
    def of(cls, reports: Sequence[str | None]) -> "TermCounts":
        """Count every term of every report."""
        is_present = np.array([bool(text and text.strip()) for text in reports])
        counter = CountVectorizer(lowercase=True, ngram_range=(1, 2), token_pattern=_TOKEN, dtype=np.float32)
        try:
            counts = counter.fit_transform([text or "" for text in reports])
        except ValueError:  # sklearn's word for "not one term in any report"
            return cls(sparse.csr_matrix((len(reports), 0), dtype=np.float32), np.array([], str), np.zeros_like(is_present))
        return cls(counts.tocsr(), counter.get_feature_names_out(), is_present)


@dataclass(frozen=True)
class TextEncoder:
    """A fitted encoder: `terms` (v), inverse document frequencies `idf` (v,), `components` (v, k)."""

    terms: tuple[str, ...]
    idf: NDArray[np.float32]
    components: NDArray[np.float32]

    @classmethod
    def fit(
        cls,
        counted: TermCounts,
        rows: NDArray[np.int64],
        max_terms: int,
        min_documents: int,
        num_components: int,
        seed: int,
    ) -> "TextEncoder | None":
        """Fit on the reports of `rows` (training cases); None if they hold too few terms to fit anything."""
        train = counted.counts[rows[counted.is_present[rows]]]
        documents = np.asarray((train > 0).sum(axis=0)).ravel()
        frequent = np.flatnonzero(documents >= min_documents)
        if len(frequent) < 2 or train.shape[0] < 3:
            return None
        kept = np.sort(frequent[np.argsort(-documents[frequent], kind="stable")[:max_terms]])
        idf = (np.log((1 + train.shape[0]) / (1 + documents[kept])) + 1).astype(np.float32)
        weighted = _weighted(train[:, kept], idf)
        rank = min(num_components, min(weighted.shape) - 1)
        _, _, components = randomized_svd(weighted, n_components=rank, random_state=seed)
        return cls(tuple(counted.terms[kept].tolist()), idf, np.ascontiguousarray(components.T, dtype=np.float32))

    def encode(self, counted: TermCounts) -> NDArray[np.float32]:
        """Return (n, k): the projection of every report; zero where there is none."""
        ours, theirs = shared_positions(self.terms, counted.terms.tolist())
        placed = sparse.csr_matrix((np.ones(len(ours), np.float32), (theirs, ours)), shape=(len(counted.terms), len(self.terms)))
        return np.asarray(_weighted(counted.counts @ placed, self.idf) @ self.components, dtype=np.float32)


def _weighted(counts: sparse.csr_matrix, idf: NDArray[np.float32]) -> sparse.csr_matrix:
    """Sublinear term frequency times idf, rows of unit length."""
    tf = counts.copy().tocsr()
    tf.data = 1 + np.log(tf.data)
    weighted = tf.multiply(idf[None]).tocsr()
    norms = np.sqrt(np.asarray(weighted.multiply(weighted).sum(axis=1)).ravel())
    return sparse.diags_array(1 / np.maximum(norms, 1e-12)).astype(np.float32) @ weighted
