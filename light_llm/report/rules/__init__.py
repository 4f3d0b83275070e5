"""Rules that judge a run. Each module here has a tuple `RULES`, which `report.health` finds; no other list names them.

The evidence for a threshold stands beside it. "Default runs" are nano and micro with the default settings on
Shakespeare and tales, as in bands.json; docs/log.md, "see the mathematics", reports what was tried. A threshold that
no experiment supports is called a rule of thumb.
"""
