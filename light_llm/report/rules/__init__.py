"""Rules that judge a run. `report.health` imports every module here and collects its tuple `RULES`.

The evidence for a threshold stands above it in a comment. "Default runs" are nano and micro with the default settings
on Shakespeare and tales, as in bands.json; "nano on tales" is one such run, looked at up to step 137. docs/log.md, "see
the mathematics", reports what was tried. A threshold that no experiment supports is called a rule of thumb.
"""
