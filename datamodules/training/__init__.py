"""What only training patches see: fewer patients, phantoms beside them, changed images."""
