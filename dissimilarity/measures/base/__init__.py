"""The kinds of measure, and what each kind owes: values from moments, from samples, from model outputs."""
