"""Showing it: contact sheets, curves, maps of embeddings, one self-contained page a run."""
