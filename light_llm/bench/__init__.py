"""How fast this machine is: its products and its memory, training and writing; and where that stands beside others.

`measure` makes a `Result`; `result.py`, `machines.py` and `beside.py` read, keep and compare results without torch.
"""
