"""Turn a dense language model into a mixture of science experts, and show that it did not forget."""
