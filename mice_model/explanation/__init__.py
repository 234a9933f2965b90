"""Why a network gave one case its risk score, as a page: `mice explain` (docs/explain.md).

trained.py finds the networks, attribution.py asks them, report_terms.py takes a report's part apart, standing.py compares with
other cases, slides.py and pictures.py draw, page.py writes, explain.py puts these in order. No module of training imports this.
"""
