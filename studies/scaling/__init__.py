"""study=scaling: how does dissimilarity grow with the ratio of sizes?"""
