"""Networks that other projects trained, taken into a training of this one."""
