"""What an export was made from, and what it holds: written last, read first (DESIGN promise 4)."""
