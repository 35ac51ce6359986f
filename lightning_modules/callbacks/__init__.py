"""What is written and shown while a network trains, and what resuming needs."""
