"""Back ends: one protocol for logical units, reached by pass-through or emulated."""
