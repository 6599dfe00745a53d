"""The export on disk: ``.data`` store, visible tree, intents, locks (DESIGN: identity, phases, crashes)."""
