"""What a model is asked without training it: log-likelihoods, generated answers, gradients."""
