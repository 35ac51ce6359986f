"""Raw examinations of a hospital: which files belong to one, and which sequence each file is."""
