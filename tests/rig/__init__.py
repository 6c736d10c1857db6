"""Real parts that tests start and stop on the machine they run on."""
