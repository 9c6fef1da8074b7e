"""Model-predictive planning in the latent space: objective, solvers, receding horizon."""
