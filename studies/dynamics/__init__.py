"""study=dynamics: when does each layer reach its final form?"""
