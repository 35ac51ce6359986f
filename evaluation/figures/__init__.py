"""Pictures of patients, scores and trainings."""
