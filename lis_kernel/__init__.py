"""lis_kernel: give any LLM a computer, inside Jupyter."""
