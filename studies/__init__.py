"""What happens around one training."""
