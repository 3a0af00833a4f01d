"""study=export: write models in the formats of other libraries."""
