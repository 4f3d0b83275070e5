"""Parts of the arithmetic: what a config can choose, a file each, and what has a quick form beside its formula."""
