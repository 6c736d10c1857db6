"""The daemon: the only part that constructs devices, stores, snoopers and units, and connects them."""
