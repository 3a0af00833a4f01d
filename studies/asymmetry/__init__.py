"""study=asymmetry: does stitching A into B cost more than stitching B into A?"""
