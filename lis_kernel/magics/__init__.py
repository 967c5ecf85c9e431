"""Notebook magics: `%%sandbox`, `%sandbox`, `%%agent`, `%agent`. Loaded
by `%load_ext lis_kernel`.
"""
