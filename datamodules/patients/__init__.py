"""The examinations below a folder, and the patient of each."""
