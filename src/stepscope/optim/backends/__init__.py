"""Ways to run a rule over parameter tensors. The eager one is the readable reference."""
