"""What Optax lacks: row-wise application, Adagrads by name, schedules."""
