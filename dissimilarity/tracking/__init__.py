"""What happens at a tick: schedule, budget, stored references, the records of one measurement."""
