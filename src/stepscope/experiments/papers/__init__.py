"""The papers' experiments on real networks: what is trained, the figure, and each sentence as a test.

What a run leaves is one JSON document of decimated curves, and everything that is drawn or claimed is a function of
that. Documents of runs that were made are kept in `stored`; from them the ledger takes its verdicts.
"""
