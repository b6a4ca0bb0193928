"""What learners that may use the simulator share."""
