"""study=compare: how far apart are these models, layer by layer?"""
