"""Reading, preparing, registering and simulating patients, measured."""
