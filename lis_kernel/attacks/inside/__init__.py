"""The half of the attacks that runs inside the sandbox: standard library only, nothing of ours.

The folder is copied into the sandbox and run as `python -m inside.driver FAMILY FACTS`.
"""
