"""The CernVM-FS format: bytes in, verified values out. No network, no export (FORMAT.md is the source)."""
