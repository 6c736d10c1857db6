"""The emulated unit against LIO: generated command sequences, one comparison, a minimal example on disagreement."""
