"""Whether a rewrite keeps the outputs, meets its budget and trains; whether the kernels keep to their memory."""
