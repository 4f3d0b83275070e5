"""The formulas of README-transformer-math.md in NumPy float64, a module for each chapter.

A function `A3_what_it_says` evaluates formula (A3) as the page writes it and compares it with the code that the page
links to. `tests/test_math.py` finds these functions by their names, runs them and holds the page to them.
"""
