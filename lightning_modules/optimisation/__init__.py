"""Options of the optimisation: learning-rate schedules, and the output layer's rate and bias."""
