"""Raw examinations registered to T2 and written as folders, one a patient."""
