"""What can be swept: tasks and their searchable dimensions."""
