"""What the tests share: golden listings, tree listings, servers, file systems and the command line."""
