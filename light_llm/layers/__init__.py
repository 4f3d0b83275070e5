"""Parts of the arithmetic that have a quick form, with a gradient of their own and a slow twin in the tests."""
