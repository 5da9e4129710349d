"""Running trials: one in this process, many on Ray."""
