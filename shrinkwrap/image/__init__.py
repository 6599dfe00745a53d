"""Images: the single files that people carry to machines without /cvmfs."""
