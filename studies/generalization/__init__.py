"""study=generalization: which fine-tuned models will fail on other data?"""
