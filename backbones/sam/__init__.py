"""SAM's image encoder and mask decoder, fitted to small images."""
