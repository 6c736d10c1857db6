"""The actions of ``_fastpath.medium`` without the GIL; for other extensions only, nothing is visible to Python."""
