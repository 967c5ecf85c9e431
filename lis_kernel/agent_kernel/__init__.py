"""The kernel `lis-agent`: a notebook whose cells are tasks for a model, in plain language.

Its own process holds no interpreter for people or models: a cell is read by `cell.py`, what its
magics mean is in `magics.py`, and all that runs does so in one sandbox, which `conversation.py`
keeps for the notebook. `kernel.py` is the part that Jupyter's protocol sees.
"""
