"""How a network learns: the loop, checkpoints, tasks, teachers, and the steps that are kept."""
