"""What the documentation takes from the code; ``python -m tests.site`` rewrites it in place."""
