"""Where accuracy is lost and why: sensitivity, evidence, causes."""
