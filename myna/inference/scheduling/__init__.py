"""Which worker decodes what and when, and how many streams a model can take. Pure."""
