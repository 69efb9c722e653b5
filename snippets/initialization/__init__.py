"""How the first numbers of the weights are chosen, and what becomes of signals and gradients."""
