"""The Genomic Data Commons: asking its API, downloading its files, and laying them out in a landing folder.

What belongs here: everything between the GDC's addresses and `<landing>/gdc`. Reading what lies there is a contract's business.
"""
