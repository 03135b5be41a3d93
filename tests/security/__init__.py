"""What must not be possible, one test for each closed way."""
